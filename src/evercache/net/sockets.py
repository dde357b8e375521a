"""What both wires share about sockets: options, addresses, TLS, and detection of a closed peer."""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket
import ssl
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

from evercache.errors import ConfigurationError
from evercache.net.types import ConnectionOptions, TLSOptions
from evercache.process import THREADS
from evercache.protocol.types import Address

__all__ = [
    "RECEIVE_BYTES",
    "blocks_in_kernel",
    "check_options",
    "from_handler",
    "input_check",
    "interruptible_receive",
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


#: The classes of Python's own sockets; gevent and eventlet put theirs into the modules.
_PLAIN: Final = socket.socket if socket.socket.__module__ == "socket" else None
_TLS: Final = ssl.SSLSocket if ssl.SSLSocket.__module__ == "ssl" else None

if _PLAIN is not None:

    class PlainSocket(socket.socket):
        """Closes its descriptor when it is dropped, without a warning and without running Python code.

        A signal handler may raise between any two instructions, so that the code which would close a socket is not
        reached. A `__del__` in Python could be interrupted as well, and the exception would be lost there.
        """

        __slots__ = ()
        __del__ = _socket.socket.close


if _TLS is not None:

    class TLSSocket(ssl.SSLSocket):
        """As `PlainSocket`."""

        __del__ = _socket.socket.close


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
    kind = PlainSocket if socket.socket is _PLAIN else socket.socket
    sock = kind(family, socket.SOCK_STREAM)
    if family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock


def blocks_in_kernel(sock: socket.socket) -> bool:
    """Whether a call of this socket blocks in the kernel, and in one system call.

    TLS reads several times for one call; sockets of gevent and eventlet never block in the kernel.
    """
    return _PLAIN is not None and type(sock) in (_PLAIN, PlainSocket) and sys.platform in ("linux", "darwin")


def input_check(sock: Any, *, closed_only: bool = False) -> Callable[[int], list[Any]]:
    """A function that, called with 0, tells at once whether an idle socket has something to read.

    If it has (a non-empty list), the peer has most likely closed it. `closed_only` asks, where the system can
    tell, for the end of the stream only.
    """
    poll = THREADS.poll()
    poll.register(sock, _CLOSED if closed_only else select.POLLIN)
    check: Callable[[int], list[Any]] = poll.poll
    return check


class _Receive(NamedTuple):
    """`recv` of the system's library."""

    #: For a descriptor: a call that returns how many bytes it received, or -1; the buffer, of which a slice is
    #: bytes; and the descriptor in an object, whose `value` is to be -1 from when it is closed.
    prepare: Callable[[int], tuple[Callable[[], int], Any, Any]]
    #: The error number of the last call of this thread.
    error: Callable[[], int]


def _find_receive() -> _Receive | None:
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).recv
    except (ImportError, OSError, AttributeError):  # a Python without ctypes, a system without a shared libc
        return None
    call.restype = ctypes.c_ssize_t
    size, flags = ctypes.c_size_t(RECEIVE_BYTES), ctypes.c_int(0)

    def prepare(descriptor: int) -> tuple[Callable[[], int], Any, Any]:
        # Arguments that are objects of ctypes already are not converted with each call.
        handle, buffer = ctypes.c_int(descriptor), (ctypes.c_char * RECEIVE_BYTES)()
        return partial(call, handle, buffer, size, flags), buffer, handle

    return _Receive(prepare, ctypes.get_errno)


#: None where it cannot be called.
#:
#: A blocking `recv` of Python cannot be bounded by the kernel (`SO_RCVTIMEO`): when a signal interrupts it and the
#: handler does not raise, Python calls `recv` again with the whole time-out (PEP 475). Under the timer of a
#: profiler such a call never ends. This one returns with `EINTR`. The other way, a `poll` before each `recv`, costs
#: one more system call, which is several microseconds on virtual machines.
interruptible_receive: Final = _find_receive()


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
        if error.errno in _LACKS or from_handler(error):
            raise
        raise ConfigurationError(f"ssl_ca_certs={options.ca_certs}: not a PEM file ({error})") from error
    if type(context).__module__ == "ssl" and ssl.SSLSocket is _TLS:
        context.sslsocket_class = TLSSocket
    context.check_hostname = options.check_hostname and options.verify
    context.verify_mode = ssl.CERT_REQUIRED if options.verify else ssl.CERT_NONE
    if options.certfile is not None:
        try:
            # The empty password makes an encrypted key an error; without it, OpenSSL asks on the terminal.
            context.load_cert_chain(options.certfile, options.keyfile, password="")
        except (OSError, ssl.SSLError) as error:
            if error.errno in _LACKS or from_handler(error):
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
        if error.errno in _LACKS or from_handler(error):
            raise
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from error


#: Modules that raise errors of the system without a number: time-outs.
_OURS: Final = ("evercache.net.", "ssl", "socket", "gevent.", "eventlet.")


def from_handler(error: BaseException) -> bool:
    """Whether an error of a kind that the system raises comes from a signal handler, so that it is for the caller.

    Many handlers of `signal.alarm` raise TimeoutError. The system's errors have a number, except its time-outs;
    those are raised in the code that waits, and not in that of a handler.
    """
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError) or error.errno is not None:
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and not str(traceback.tb_frame.f_globals.get("__name__")).startswith(_OURS)


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
