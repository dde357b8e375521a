"""The greeting: what is said when a connection is made, as a generator without I/O.

Both wires drive it: it yields the commands of one round trip, is sent their replies and the monotonic
time of the receipt, and returns a `Greeting`. One round trip with RESP3, two with servers before Redis 6.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from msgspec.structs import replace

from evercache.errors import AccessDenied, AuthenticationFailed, ProtocolError, ServerError
from evercache.net.types import ConnectionOptions, Credentials, Greeting
from evercache.protocol.types import Command, Reply
from evercache.version import __version__

__all__ = ["Greeter", "UnexpectedServer", "greet", "parse_time"]

#: Of a time in seconds, or a part of a version; seven more are ours.
_MOST_DIGITS = 12
#: Yields commands, is sent (replies, time of receipt), returns the greeting.
Greeter = Generator[list[Command], tuple[list[Reply | ServerError], float], Greeting]


class UnexpectedServer(ProtocolError):
    """It answered as it should, and is not of the kind that the URL asks for."""


def greet(options: ConnectionOptions) -> Greeter:
    """Log in, choose the database, name the connection, and ask the server what it is.

    Raises `AuthenticationFailed`, `AccessDenied`, `Loading` or another `ServerError` as the server says, and
    `ProtocolError` if it is a sentinel where a node was expected, the reverse, or of a Cluster. No message holds a
    password.
    """
    name = _plain(options.client_name)
    questions = _questions(options)
    replies, received = yield [_hello(options.credentials, name), *questions.values()]
    first = replies[0]
    if isinstance(first, ServerError):
        if not _unknown_hello(first):
            raise _explained(first, "HELLO")
        login = _login(options.credentials)
        replies, received = yield [*login, ("CLIENT", "SETNAME", name), *questions.values()]
        if login and isinstance(replies[0], ServerError):
            raise _explained(replies[0], "AUTH")
        replies = replies[len(login) :]
    return _understood(options, dict(zip(questions, replies[1:], strict=True)), received)


def _hello(credentials: Credentials, name: str) -> Command:
    """A user name alone is tried with an empty password, which `nopass` users have."""
    login: tuple[str, ...] = ()
    if credentials.password is not None or credentials.username:
        login = ("AUTH", credentials.username or "default", credentials.password or "")
    return ("HELLO", 3, *login, "SETNAME", name)


def _login(credentials: Credentials) -> list[Command]:
    """AUTH for servers without HELLO; the form with a user name only where one is given."""
    if credentials.username:
        return [("AUTH", credentials.username, credentials.password or "")]
    return [] if credentials.password is None else [("AUTH", credentials.password)]


def _questions(options: ConnectionOptions) -> dict[str, Command]:
    """What is asked after the log-in, by the name that an error message gives it."""
    questions: dict[str, Command] = {
        "CLIENT SETINFO lib-name": ("CLIENT", "SETINFO", "lib-name", "evercache"),
        "CLIENT SETINFO lib-ver": ("CLIENT", "SETINFO", "lib-ver", __version__),
    }
    if options.db and not options.sentinel:
        questions["SELECT"] = ("SELECT", options.db)
    questions["INFO server"] = ("INFO", "server")
    if not options.sentinel:
        questions["INFO replication"] = ("INFO", "replication")
        questions["TIME"] = ("TIME",)
    return questions


def _understood(options: ConnectionOptions, replies: dict[str, Any], received: float) -> Greeting:
    """Make a `Greeting` of the replies; CLIENT SETINFO is unknown to old servers and may fail."""
    if isinstance(replies["INFO server"], ServerError):
        raise _explained(replies["INFO server"], "INFO server")
    server = _fields(replies["INFO server"])
    mode = server.get("redis_mode") or server.get("server_mode")
    if options.sentinel and mode != "sentinel":
        raise UnexpectedServer("a data node answers where a sentinel was expected: check the port in the URL")
    if mode == "sentinel" and not options.sentinel:
        raise UnexpectedServer("a sentinel answers where a data node was expected: use a sentinel:// URL")
    if mode == "cluster":
        raise UnexpectedServer(
            "a node of a Redis Cluster answers, and Cluster is not supported: give sentinels, one server that is "
            "no cluster node, or a primary with ?replicas="
        )
    for name, reply in replies.items():
        if isinstance(reply, ServerError) and not name.startswith("CLIENT"):
            raise _explained(reply, name)
    is_valkey = "valkey_version" in server
    greeting = Greeting(
        run_id=server.get("run_id", ""),
        role="sentinel",
        replid="",
        server="valkey" if is_valkey else "redis",
        version=_numbers(server.get("valkey_version" if is_valkey else "redis_version", "")),
        time_us=0,
        received=received,
    )
    if options.sentinel:
        return greeting
    replication = _fields(replies["INFO replication"])
    time_us = parse_time(replies["TIME"])
    if time_us is None:
        raise ProtocolError(f"TIME was answered by {replies['TIME']!r}, not by seconds and microseconds")
    role = replication.get("role")
    if role not in ("master", "slave"):
        raise ProtocolError(f"INFO replication names the role {role!r}, neither master nor slave")
    return replace(greeting, role=role, replid=replication.get("master_replid", ""), time_us=time_us)


def parse_time(reply: Any) -> int | None:
    """The reply to TIME in microseconds; None when it is none."""
    match reply:
        case [bytes() as seconds, bytes() as micros] if seconds.isdigit() and micros.isdigit():
            if len(seconds) <= _MOST_DIGITS and len(micros) <= _MOST_DIGITS:
                return int(seconds) * 1_000_000 + int(micros)
    return None


def _fields(info: Any) -> dict[str, str]:
    if not isinstance(info, bytes):
        raise ProtocolError(f"INFO was answered by {type(info).__name__}, not by text")
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _numbers(text: str) -> tuple[int, ...]:
    """`9.1.2` -> (9, 1, 2); what is no number (a release candidate's name) ends it."""
    numbers: list[int] = []
    for part in text.split("."):
        if not (part.isascii() and part.isdigit() and len(part) <= _MOST_DIGITS):
            break
        numbers.append(int(part))
    return tuple(numbers)


def _plain(name: str) -> str:
    """A client name that every server accepts: no spaces, nothing outside ASCII."""
    return "".join(char if "!" <= char <= "~" else "-" for char in name)


def _unknown_hello(error: ServerError) -> bool:
    text = str(error).lower()
    return error.code == "NOPROTO" or text.startswith("err unknown command")


def _explained(error: ServerError, what: str) -> ServerError:
    """The server's words and the mend."""
    if isinstance(error, AuthenticationFailed):
        return AuthenticationFailed(f"{error} (at {what}: check the user name and the password in the URL)")
    if isinstance(error, AccessDenied):
        return AccessDenied(f"{error} (at {what}: the ACL user needs +info +time +select +client)")
    if what == "SELECT" and "out of range" in str(error):
        return ServerError(f"{error} (choose a lower database number, or raise `databases` on the server)")
    return type(error)(f"{error} (at {what})")
