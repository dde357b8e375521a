"""Whether one side speaks TLS and the other does not, found out after a connection has failed.

Such a pair fails in ways that say nothing: a plain server waits for the rest of what it takes for a command, and a
TLS server closes the connection. So the failure is looked into with one more connection, which speaks the other
way. Only servers that this process has never reached are asked: others do not change sides.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from evercache.clock import monotonic
from evercache.errors import DeadlineExceeded
from evercache.net.greeting import UnexpectedServer
from evercache.net.names import resolver
from evercache.net.sockets import known_records, new_socket
from evercache.net.types import ConnectionOptions
from evercache.protocol.types import Address

__all__ = ["LONGEST", "afind_mismatch", "find_mismatch"]

#: Seconds that the second connection may take.
LONGEST: Final = 0.2
#: First bytes of a TLS record: an alert, a handshake (RFC 8446, 5.1).
_TLS_RECORDS: Final = (b"\x15", b"\x16")
#: First bytes of a RESP reply to PING: a status, an error.
_RESP_REPLIES: Final = (b"+", b"-")


def find_mismatch(address: Address, options: ConnectionOptions, error: BaseException, deadline: float) -> str:
    """Return a sentence for the error message, or "" if the two sides agree or nothing could be found out."""
    if not _is_puzzling(address, options, error):
        return ""
    try:
        records = known_records(address) or resolver.records(address, deadline)
        with new_socket(records[0][0]) as sock:
            sock.settimeout(max(0.001, min(LONGEST, deadline - monotonic())))
            sock.connect(records[0][1])
            sock.sendall(_question(options))
            return _verdict(options, sock.recv(64))
    except OSError:
        return ""


async def afind_mismatch(
    address: Address, options: ConnectionOptions, error: BaseException, deadline: float
) -> str:
    """The same for tasks."""
    if not _is_puzzling(address, options, error):
        return ""
    loop, limit = asyncio.get_running_loop(), min(deadline, monotonic() + LONGEST)
    try:
        async with asyncio.timeout(limit - monotonic()):
            records = known_records(address) or await resolver.arecords(address, limit)
            with new_socket(records[0][0]) as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, records[0][1])
                await loop.sock_sendall(sock, _question(options))
                return _verdict(options, await loop.sock_recv(sock, 64))
    except (OSError, RuntimeError):
        return ""


def _is_puzzling(address: Address, options: ConnectionOptions, error: BaseException) -> bool:
    """Whether an error may come of a mismatch: a refused connection, a wrong certificate or an answer that was
    understood does not. Nor does silence, unless TLS is spoken: a TLS server closes a plain connection at once."""
    clear: tuple[type[BaseException], ...] = (
        ConnectionRefusedError,
        socket.gaierror,
        ssl.SSLCertVerificationError,
        UnexpectedServer,
    )
    if options.tls is None:
        clear += (TimeoutError, DeadlineExceeded)
    causes = (error, error.__cause__)
    return address.path is None and not any(isinstance(one, clear) for one in causes)


def _question(options: ConnectionOptions) -> bytes:
    if options.tls is not None:
        return b"PING\r\n"
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()  # the ClientHello


def _verdict(options: ConnectionOptions, reply: bytes) -> str:
    secure = options.tls is not None
    if secure and reply.startswith(_RESP_REPLIES):
        return "it does not speak TLS on this port: use redis:// or sentinel:// in the URL, or its TLS port"
    if not secure and reply.startswith(_TLS_RECORDS):
        return "it speaks TLS on this port: use rediss:// or sentinels:// in the URL, or its plain port"
    return ""
