"""What both wires share about sockets: options, addresses, TLS, and detection of a closed peer."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from evercache.errors import ConfigurationError
from evercache.wire.types import Address, ConnectionOptions, TLSOptions

__all__ = [
    "RECEIVE_BYTES",
    "check_options",
    "input_check",
    "known_records",
    "look_up",
    "new_socket",
    "tls_context",
    "why",
]

#: How much is asked for in one `recv`.
RECEIVE_BYTES: Final = 65536
#: What the system says where this process, or the machine, lacks something for a while.
_LACKS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

# POLLRDHUP tells a closed peer from unread data, but exists on Linux only.
_CLOSED: Final = getattr(select, "POLLRDHUP", select.POLLIN)


def check_options(address: Address, options: ConnectionOptions) -> None:
    """Refuse, with `ConfigurationError`, what cannot work; opens nothing."""
    if options.max_connections < 1:
        raise ConfigurationError(f"max_connections={options.max_connections}: give 1 or more")
    if not options.connect_timeout > 0:
        raise ConfigurationError(f"connect_timeout={options.connect_timeout}: give seconds above 0")
    if options.tls is not None and address.path is not None:
        raise ConfigurationError(f"TLS over the unix socket {address.path}: use one of the two")
    if options.tls is not None:
        try:
            tls_context(options.tls)
        except OSError:
            return  # no descriptor to read the files: a connection looks at them again


def known_records(address: Address) -> list[tuple[int, Any]] | None:
    """(family, socket address) where no name has to be looked up, else None."""
    if address.path is not None:
        return [(socket.AF_UNIX, address.path)]
    try:
        return look_up(address, socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None


def look_up(address: Address, flags: int = 0) -> list[tuple[int, Any]]:
    """All address records; blocks as long as the system's resolver does. `OSError`."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:  # Python refuses it (RFC 1035, 2.3.4) before it asks anybody
        raise socket.gaierror(
            socket.EAI_NONAME, "no host name: a part between dots is empty or has over 63 letters"
        ) from None
    return [(family, where) for family, _, _, _, where in found]


def new_socket(family: int) -> socket.socket:
    """A socket with the options that a request-reply protocol wants (no Nagle delay, keep-alive)."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def input_check(sock: Any, *, closed_only: bool = False) -> Callable[[int], list[Any]]:
    """A function that, called with 0, tells at once whether an idle socket has something to read.

    If it has (a non-empty list), the peer has most likely closed it. `closed_only` asks, where the system can
    tell, for the end of the stream only.
    """
    poll = select.poll()
    poll.register(sock, _CLOSED if closed_only else select.POLLIN)
    return poll.poll


def tls_context(options: TLSOptions) -> ssl.SSLContext:
    """The context for these options; the files are read again when they have changed.

    `ConfigurationError` names a file that cannot be used, `OSError` is for want of descriptors or memory.
    """
    return _tls_context(options, *map(_changed, (options.ca_certs, options.certfile, options.keyfile)))


@lru_cache(maxsize=16)
def _tls_context(options: TLSOptions, *_changes: int) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_certs)
    except (OSError, ssl.SSLError) as error:
        if error.errno in _LACKS:
            raise
        raise ConfigurationError(f"ssl_ca_certs={options.ca_certs}: not a PEM file ({error})") from error
    context.check_hostname = options.check_hostname and options.verify
    context.verify_mode = ssl.CERT_REQUIRED if options.verify else ssl.CERT_NONE
    if options.certfile is not None:
        try:
            # The empty password makes an encrypted key an error; without it, OpenSSL asks on the terminal.
            context.load_cert_chain(options.certfile, options.keyfile, password="")
        except (OSError, ssl.SSLError) as error:
            if error.errno in _LACKS:
                raise
            raise ConfigurationError(
                f"ssl_certfile={options.certfile}, ssl_keyfile={options.keyfile}: "
                f"not a PEM certificate with its key ({error})"
            ) from error
    elif options.keyfile is not None:
        raise ConfigurationError("ssl_keyfile without ssl_certfile: give both")
    return context


def _changed(path: str | None) -> int:
    if path is None:
        return 0
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        if error.errno in _LACKS:
            raise
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from error


def why(error: Exception) -> str:
    """The reason of a network error, or of what this process lacks, in a few words."""
    if not isinstance(error, OSError):
        return str(error) or "this process has no memory left for it"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({getattr(error, 'verify_message', '') or error.reason or error})"
    if isinstance(error, socket.gaierror):
        return error.strerror or "the name cannot be looked up"
    if error.errno == errno.ECONNREFUSED:
        return "Connection refused: nothing listens there; check that the server runs, and the URL"
    # asyncio puts the address into `strerror`, a second time in our messages.
    return os.strerror(error.errno) if error.errno else error.strerror or type(error).__name__
