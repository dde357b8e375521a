"""RESP: commands to bytes, bytes to replies, error replies to the fitting error class. Pure.

Parsing and packing are hiredis'; both versions of the protocol (RESP2, RESP3) come out the same here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis

from evercache.errors import (
    AccessDenied,
    AuthenticationFailed,
    Loading,
    NoScript,
    OutOfMemory,
    ProtocolError,
    ReadOnly,
    ServerError,
)
from evercache.net.frames import Frames, plain
from evercache.protocol.types import Argument, Command

__all__ = [
    "NOT_RESP",
    "PENDING",
    "Decoder",
    "confirmations",
    "encode",
    "encode_get",
    "encode_gets",
    "error_from",
    "is_confirmation",
    "is_message",
    "not_resp",
    "numbers_as_text",
    "too_much",
]

#: What `Decoder.next` gives when the bytes so far hold no further whole reply.
PENDING: Final = object()

#: Numbers are not passed to it (`numbers_as_text`).
_pack: Final = cast("Callable[[tuple[str | bytes, ...]], bytes]", hiredis.pack_command)

_BY_CODE: Final[dict[str, type[ServerError]]] = {
    "READONLY": ReadOnly,
    "LOADING": Loading,
    "MASTERDOWN": Loading,
    "BUSY": Loading,
    "TRYAGAIN": Loading,
    "CLUSTERDOWN": Loading,
    "OOM": OutOfMemory,
    "MISCONF": OutOfMemory,
    "NOREPLICAS": OutOfMemory,
    "NOSCRIPT": NoScript,
    "WRONGPASS": AuthenticationFailed,
    "NOAUTH": AuthenticationFailed,
    "NOPERM": AccessDenied,
}

# Redis 6.2 wraps what a command said inside a script: "ERR Error running script (call to f_<sha>):
# @user_script:1: @user_script: 1: -READONLY You can't ...", without the first part after a `pcall`.
_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d+: -?(?P<inner>[A-Z]{2,} .*)", re.DOTALL)

# An ACL that forbids a command of a script says so without NOPERM: Redis 6.2 and 7, then Valkey.
_DENIED_IN_SCRIPT: Final = ("The user executing the script can't", "ACL failure in script")

# Answers to AUTH that carry no code of their own: a wrong password before Redis 6, and a password that
# the server does not ask for (old, new).
_BAD_AUTH: Final = (
    "ERR invalid password",
    "ERR Client sent AUTH, but no password is set",
    "ERR AUTH <password> called without any password",
)

#: Every reply ends with it; a string begins with that.
_END: Final = 10
_STRING: Final = ord("$")
#: What the parser is given at a time: it moves all that it has left after each kilobyte that it has read.
_PIECE: Final = 4096
#: The bytes that a string takes as a reply, by its length.
_TAKEN: Final = [size + len(f"${size}\r\n\r\n") for size in range(4096)]

_MESSAGES: Final = frozenset((b"message", b"pmessage", b"smessage"))
_CONFIRMATIONS: Final = frozenset(
    (b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe")
)
_CONFIRMED_COMMANDS: Final = frozenset(name.decode() for name in _CONFIRMATIONS)


def encode(commands: Sequence[Command]) -> bytes:
    """The bytes that ask for these commands, one after the other, as one pipeline.

    `TypeError` for an argument that is not bytes, str, int or float; `ValueError` for an empty command, or for an
    integer with more digits than Python converts.
    """
    if len(commands) == 1 and commands[0]:
        return _pack(_words(commands[0]))
    if not all(commands):
        raise ValueError("an empty command: give its name and its arguments")
    return b"".join([_pack(_words(command)) for command in commands])


def _words(command: Command) -> tuple[str | bytes, ...]:
    return tuple([word if type(word) is str or type(word) is bytes else _word(word) for word in command])


def _word(argument: Argument) -> str | bytes:
    if isinstance(argument, (str, bytes)):
        return argument
    if type(argument) is int:  # no bool, no IntEnum: their text is not what a caller means
        return int.__repr__(argument)
    if isinstance(argument, float):
        return float.__repr__(argument)
    raise TypeError(f"an argument of a command must be bytes, str, int or float, not {type(argument).__name__}")


def numbers_as_text(command: Sequence[Any]) -> tuple[Any, ...]:
    """The words of a command with its integers and floats as text.

    `hiredis.pack_command` makes text of a number by `PyObject_Repr`, which runs signal handlers first, and it does
    not look whether that failed: where a handler raises, or the integer is too long, it crashes the process.
    """
    return tuple([_word(word) if type(word) is int or isinstance(word, float) else word for word in command])


_GETS: Final = [f"*2\r\n$3\r\nGET\r\n${size}\r\n" for size in range(1024)]


def encode_get(key: str) -> bytes:
    """The bytes of `GET key`: what `encode` gives, several times as fast."""
    size = len(key)
    if size < 1024 and key.isascii():  # as many bytes as characters
        return f"{_GETS[size]}{key}\r\n".encode()
    return _pack(("GET", key))


def encode_gets(keys: Sequence[str]) -> bytes:
    """The bytes of `GET key` for each, one after the other."""
    try:
        text = "".join([f"{_GETS[len(key)]}{key}\r\n" for key in keys])
    except IndexError:
        return b"".join(map(encode_get, keys))
    return text.encode() if text.isascii() else b"".join(map(encode_get, keys))


def error_from(text: str) -> ServerError:
    """The error reply as a value of the class that fits, also when it comes from inside a script.

    The code (`READONLY`, ...) is put first where a server hides it, so `error.code` can be trusted.
    """
    code = text.split(" ", 1)[0]
    kind = _BY_CODE.get(code)
    if kind is not None:
        return kind(text)
    if code in ("ERR", "@user_script:") or code.startswith("@user_script"):
        inner = _IN_SCRIPT.search(text)
        if inner is not None and (found := error_from(inner["inner"])).code != "ERR":
            return found
        if any(sign in text for sign in _DENIED_IN_SCRIPT):
            return AccessDenied(f"NOPERM {text}")
        if text.startswith(_BAD_AUTH):
            return AuthenticationFailed(text)
    return ServerError(text)


#: What hiredis raises for bytes that are no RESP; TypeError e.g. for a list as the key of a map.
NOT_RESP: Final = (TypeError, hiredis.HiredisError, MemoryError, RecursionError)


def not_resp(error: Exception) -> ProtocolError:
    """The error for what hiredis raised."""
    return ProtocolError(
        f"the peer does not speak the Redis protocol ({error}): check the port and TLS", maybe_run=True
    )


def too_much() -> ProtocolError:
    """The error for a list of a length that no server has."""
    return ProtocolError("the peer announces more than any server has: check the port", maybe_run=True)


class Decoder:
    """Bytes in, replies out. No lock: it belongs to one connection, which one thread uses at a time."""

    __slots__ = ("_frames", "_last", "_reader", "_unseen", "broken", "gets", "has_data", "put")

    def __init__(self) -> None:
        self._frames = Frames()
        #: Whether the rest of what came was left out, as it announces what cannot be.
        self.broken = False
        #: The last byte that came: the parser does not count a single one of the next reply.
        self._last = _END
        #: What was parsed without a look at its lengths; more must come before they matter.
        self._unseen = b""
        self._reader = reader = self._new_reader()
        #: As `next`, with the errors of hiredis; and whether a further reply, or a part of one, has come.
        self.gets: Callable[[], Any] = reader.gets
        self.has_data: Callable[[], bool] = reader.has_data
        #: `feed` for the beginning of a string where nothing has come before it: `began` is due if that is not all.
        self.put: Callable[[bytes], None] = reader.feed

    def __repr__(self) -> str:
        return f"<Decoder bytes={self._reader.len()}>"

    @staticmethod
    def _new_reader() -> hiredis.Reader:
        return hiredis.Reader(replyError=error_from, notEnoughData=PENDING)

    def feed(self, data: bytes) -> None:
        """Take what came from the peer; nothing more where it is `broken`."""
        if not data or self.broken:
            return
        reader, frames = self._reader, self._frames
        begun = self._last != _END or reader.has_data()
        self._last = data[-1]
        if begun:
            if self._unseen:
                frames.take(self._unseen)
                self._unseen = b""
        else:
            frames.begin()
            if not frames.open and plain(data):
                self._unseen = data
                reader.feed(data)
                return
            self._unseen = b""
        sound = frames.take(data)
        if sound < len(data):
            self.broken = True
            # The sign that the rest begins with stays: whoever takes what came before it sees that more has come.
            data = data[: sound + 1] if sound else b""
        reader.feed(data)

    def strings(self, data: bytes) -> tuple[list[bytes | None], bool]:
        """Take what came where nothing has come before (`is_empty`): the strings that it begins with, and whether
        that is all of it.

        They need no look at their lengths, since the parser allots nothing for a string that is not there. What
        follows them does; it is left to `gets`.
        """
        found: list[bytes | None] = []
        gets, at, size, fed = self.gets, 0, len(data), _PIECE
        self.put(data if size <= fed else data[:fed])
        try:
            while at < size and data[at] == _STRING:
                reply = gets()
                if type(reply) is bytes:
                    length = len(reply)
                    at += _TAKEN[length] if length < 4096 else length + len(f"${length}\r\n\r\n")
                elif reply is None:
                    at += 5
                elif fed < size:
                    # Another piece; or all the rest, where it is a string that is longer than one.
                    begin, fed = fed, fed + _PIECE if at > fed - _PIECE else size
                    self.put(data[begin:fed])
                    continue
                else:
                    break
                found.append(reply)
        except NOT_RESP:
            pass  # it says so again
        if at == size:
            return found, True
        self._rest(data[at:], data[fed:])
        return found, False

    def _rest(self, data: bytes, unfed: bytes) -> None:
        """Look at the lengths in what follows the strings; of that the parser has not got the last part."""
        self._frames.begin()
        self._last, self._unseen = data[-1], b""
        sound = self._frames.take(data)
        if sound < len(data):
            self.broken = True
            # The parser may have it already; what is sound of it goes to another one.
            self._reader = reader = self._new_reader()
            self.gets, self.has_data, self.put = reader.gets, reader.has_data, reader.feed
            unfed = data[:sound]
        self.put(unfed)

    def began(self, data: bytes) -> None:
        """Look at the lengths in what was `put`, after all: it is a part only, or more than the string."""
        self._frames.begin()
        self._last, self._unseen = data[-1], b""
        if self._frames.take(data) < len(data):
            raise too_much()

    def next(self) -> Any:
        """The next reply, or `PENDING`. `ProtocolError` if the peer does not speak RESP.

        bytes, int, float, bool, None, list or dict; an error reply is a `ServerError` value; an out-of-band
        message of RESP3 is a `hiredis.PushNotification`.
        """
        try:
            reply = self.gets()
        except NOT_RESP as error:
            raise not_resp(error) from None
        if reply is PENDING and self.broken:
            raise too_much()
        return reply

    def is_empty(self) -> bool:
        """Whether nothing of a further reply, not even a part, has come."""
        return self._last == _END and not self.has_data() and not self._frames.open

    def pop(self) -> Any:
        """As `next`, but out-of-band messages are dropped: for connections that never subscribe."""
        reply = self.next()
        while type(reply) is hiredis.PushNotification:
            reply = self.next()
        return reply


def confirmations(command: Command) -> int:
    """How many out-of-band confirmations answer this command: 0 unless it is (un)subscribing.

    `ValueError` for an unsubscribing command without names: the number of its answers is not fixed.
    """
    name = command[0]
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
    if text.lower() not in _CONFIRMED_COMMANDS:
        return 0
    if len(command) < 2:
        raise ValueError(f"{text}: name the channels")
    return len(command) - 1


def is_message(reply: Any, *, subscribed: bool) -> bool:
    """Whether it is out of band; RESP2 sends such as plain lists, on subscribed connections only."""
    if type(reply) is hiredis.PushNotification:
        return True
    return (
        subscribed
        and type(reply) is list
        and bool(reply)
        and isinstance(reply[0], bytes)
        and (reply[0] in _MESSAGES or reply[0] in _CONFIRMATIONS)
    )


def is_confirmation(message: list[Any]) -> bool:
    """Whether an out-of-band message confirms an (un)subscribing command."""
    return bool(message) and isinstance(message[0], bytes) and message[0] in _CONFIRMATIONS
