"""RESP: the decoder, and the framing of both wires around it, in chunks of any size."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, nan
from typing import Any

import hiredis

from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, DeadlineExceeded, ProtocolError, ServerError
from evercache.net import connection as blocking
from evercache.net import resp
from evercache.net.channel import Channel
from evercache.net.connection import LATE, Connection
from evercache.net.places import Place, Places
from evercache.net.resp import PENDING, Decoder
from evercache.net.types import Greeting
from evercache.protocol.types import Address
from tests.edits import edit
from tests.fuzz.target import Bug, Target, must

__all__ = ["TARGETS", "WORDS"]

_ADDRESS = Address("127.0.0.1", 1)
#: Nobody is late here, however long the machine stands still: seconds.
_PATIENCE = 86_400.0
#: A pipeline of so many commands is asked, then one alone.
_COUNT = 3

WORDS = (
    *(b"\r\n", b"$", b"*", b"+", b"-", b":", b"%", b"~", b">", b"|", b"_", b",", b"#t\r\n", b"(", b"=", b"!"),
    *(b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"%0\r\n", b">0\r\n", b"$0\r\n\r\n", b"+OK\r\n", b"-ERR x\r\n"),
    *(b"*4294967295\r\n", b"$2147483647\r\n", b"%1\r\n*0\r\n+a\r\n", b"-ERR @user_script:1: -", b"-MOVED 1 x\r\n"),
    *(
        b"*1\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nd\r\n",
        b",nan\r\n",
        b",inf\r\n",
        b"9" * 30,
        b"\xff\xfe",
    ),
)


def _cut(data: bytes) -> list[bytes]:
    """The first byte says how large the chunks are."""
    if not data:
        return []
    size, rest = data[0] % 32, data[1:]
    if not size or len(rest) > 64 * size:
        return [rest] if rest else []
    return [rest[at : at + size] for at in range(0, len(rest), size)]


def _replies(chunks: list[bytes], most: int) -> tuple[list[Any], bool]:
    """What the decoder makes of them, and whether the peer broke the protocol."""
    decoder, found = Decoder(), []
    try:
        for chunk in chunks:
            decoder.feed(chunk)
            while len(found) < most and (reply := decoder.next()) is not PENDING:
                found.append(reply)
    except ProtocolError:
        return found, True
    return found, False


def _plain(value: Any) -> Any:
    """A reply as something that can be compared: errors by their class and text, floats by their text."""
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(_plain, value)]
    if isinstance(value, dict):
        return {repr(key): _plain(one) for key, one in value.items()}
    return repr(value)


def _decoder(data: bytes) -> None:
    chunks = _cut(data)
    whole, broken = _replies([b"".join(chunks)] if chunks else [], 1000)
    found, broken_too = _replies(chunks, 1000)
    must(_plain(found) == _plain(whole) and broken == broken_too, "the decoder depends on how bytes are cut")
    for error in _errors(whole):
        must(error.code == str(error).split(" ", 1)[0], "the code of an error is not its first word")


def _errors(value: Any) -> Iterator[ServerError]:
    if isinstance(value, ServerError):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _errors(one)


class _Socket:
    """What a blocking connection reads from: chunks, then nothing before the deadline."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = list(chunks)

    def fileno(self) -> int:
        return -1

    def send(self, data: Any, flags: int = 0) -> int:
        return len(data)

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.chunks:
            raise BlockingIOError
        return self.chunks.pop(0)

    def settimeout(self, seconds: float | None) -> None: ...

    def setsockopt(self, *options: Any) -> None: ...

    def close(self) -> None: ...


class _Connection(Connection):
    """The connection itself, whose socket is not one of the system's."""

    __slots__ = ()

    def __init__(self, chunks: list[bytes]) -> None:
        sock: Any = _Socket(chunks)
        self.address, self.sock, self.decoder = _ADDRESS, sock, Decoder()
        self._send, self._receive = sock.send, sock.recv
        self._feed, self._put = self.decoder.feed, self.decoder.put
        self._gets, self._has_data = self.decoder.gets, self.decoder.has_data
        self._patience, self._slack, self._waits, self._by_kernel = inf, 0.0, nan, True
        self._polled, self._torn, self._handle, self.place = inf, False, None, Place(Places())
        self.replies, self.used, self.met, self.epoch = [], 0.0, None, 0
        self.check = lambda wait: [(-1, 1)] if sock.chunks else []


def _blocking(chunks: list[bytes]) -> tuple[list[Any] | ConnectionFailed | None, list[bytes]]:
    """Three replies to a pipeline, None where there are not so many; and the chunks that were read for them."""
    connection = _Connection(chunks)
    replies: list[Any] | ConnectionFailed | None = None
    try:
        replies = connection.request(b"x", _COUNT, monotonic() + _PATIENCE)
    except DeadlineExceeded:
        pass
    except ConnectionFailed as error:
        replies = error
    return replies, _read(connection, chunks)


def _read(connection: Connection, chunks: list[bytes]) -> list[bytes]:
    sock: Any = connection.sock
    return chunks[: len(chunks) - len(sock.chunks)]


def _asked(chunks: list[bytes]) -> tuple[Any, list[bytes]]:
    """The reply to one command, on the short way, and the chunks that were read for it."""
    connection = _Connection(chunks)
    now = monotonic()
    try:
        reply = connection.ask(b"x", now, _PATIENCE)
    except DeadlineExceeded:
        reply = LATE
    except ConnectionFailed as error:
        reply = error
    return reply, _read(connection, chunks)


@functools.cache
def _loop(pid: int) -> asyncio.AbstractEventLoop:
    """A loop of each process: the hunters are forked."""
    return asyncio.new_event_loop()


class _Transport(asyncio.Transport):
    """What a channel writes to."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: Any) -> None: ...

    def abort(self) -> None: ...


@contextmanager
def _channel() -> Iterator[Channel]:
    left, right = socket.socketpair()
    loop = _loop(os.getpid())
    channel = Channel(_ADDRESS, left, loop, keep_messages=False)
    channel.greeting = Greeting("r", "master", "", "valkey", (9,), 0, 0.0)
    channel.connection_made(_Transport({"socket": left}))
    try:
        yield channel
    finally:
        channel.close()
        left.close()
        right.close()
        loop.run_until_complete(asyncio.sleep(0))  # what was put off until the next turn would stay for ever


def _hear(channel: Channel, chunks: list[bytes]) -> None:
    channel._flush()
    for chunk in chunks:
        if channel._failure is None:
            channel.data_received(chunk)


def _pipelined(chunks: list[bytes]) -> list[Any] | ConnectionFailed | None:
    """The same from a channel; the error with which it ended."""
    with _channel() as channel:
        future = channel.send([("X",)] * _COUNT, monotonic() + _PATIENCE).future
        _hear(channel, chunks)
        failure = channel._failure
    if future.done() and future.exception() is None:
        replies: list[Any] = future.result()
        return replies
    return failure


def _questions(chunks: list[bytes]) -> list[Any]:
    """The replies to so many questions as were answered."""
    now = monotonic()
    with _channel() as channel:
        questions = [channel.get("x", now, now + _PATIENCE) for _ in range(_COUNT)]
        _hear(channel, chunks)
    return [one.result() for one in questions if one is not None and one.exception() is None]


def _wires(data: bytes) -> None:
    chunks = _cut(data)
    replies, broken = _replies([b"".join(chunks)] if chunks else [], 1000)
    wanted = [one for one in replies if type(one) is not hiredis.PushNotification]
    found, read = _blocking(chunks)
    if isinstance(found, ConnectionFailed):
        must(broken or any(_followed(read, _COUNT)), f"a connection was broken by sound replies: {found}")
    else:
        must((found is None) == (len(wanted) < _COUNT), "the blocking wire lost a reply, or made one up")
        must(found is None or _plain(found) == _plain(wanted[:_COUNT]), "the blocking wire mixed up replies")
        must(found is None or not _leftover(read, _COUNT), "the blocking wire believes more than was asked for")
    answer = _pipelined(chunks)
    if isinstance(answer, list):
        must(_plain(answer) == _plain(wanted[:_COUNT]), "the pipelined wire mixed up replies")
    elif len(wanted) >= _COUNT:
        raise AssertionError(f"the pipelined wire lost a reply: {answer!r}")
    elif answer is not None:
        must(broken, f"a channel was broken by sound replies: {answer}")
    must(_plain(_questions(chunks)) == _plain(wanted[:_COUNT]), "a question got another reply, or none")
    one, read = _asked(chunks)
    if isinstance(one, ConnectionFailed):
        must(broken or any(_followed(read, 1)), f"the short way was broken by sound replies: {one}")
        return
    must((one is LATE) == (not wanted), "the short way lost a reply, or made one up")
    must(one is LATE or _plain(one) == _plain(wanted[0]), "the short way read another reply")
    must(one is LATE or not _leftover(read, 1), "the short way believes more than was asked for")


def _leftover(chunks: list[bytes], asked: int) -> bool:
    """Whether a part of a reply beyond those asked for has come: nobody knows what that is."""
    return _followed(chunks, asked)[0]


def _followed(chunks: list[bytes], asked: int) -> tuple[bool, bool]:
    """The same; and whether a string is not ended by the end of a line, which the parser does not look at.

    Byte by byte: each reply is there with its last one.
    """
    decoder, count, begun, odd = Decoder(), 0, False, False
    try:
        for byte in b"".join(chunks):
            begun = True
            decoder.feed(bytes((byte,)))
            while (reply := decoder.next()) is not PENDING:
                begun, odd = False, odd or byte != 10
                count += type(reply) is not hiredis.PushNotification
            if count > asked:
                break
    except ProtocolError:
        return True, odd
    return count > asked or (count == asked and begun), odd


_SEEDS = (
    b"\x00$1\r\na\r\n$1\r\nb\r\n$-1\r\n",
    b"\x00+OK\r\n:5\r\n$3\r\nabc\r\n",
    b"\x03*2\r\n$1\r\na\r\n%1\r\n+k\r\n,1.5\r\n$-1\r\n-ERR wrong\r\n",
    b"\x07>3\r\n+message\r\n+c\r\n+d\r\n_\r\n#f\r\n(12345678901234567890\r\n",
    b"\x05$5\r\nhello\r\n$2\r\n\r\n\r\n=7\r\ntxt:abc\r\n",
    b"\x00-ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -READONLY no\r\n+a\r\n+b\r\n",
    b"\x01~2\r\n:1\r\n:2\r\n-NOPERM x\r\n*1\r\n*1\r\n-LOADING y\r\n",
)

TARGETS = (
    Target(
        "resp",
        _decoder,
        _SEEDS,
        WORDS,
        found=(
            b"\x01~2\r\n:1\r\n:2\r\n->NOPERM x\r\n+a\r\n",
            b"\x01$447134713647347\r\n",
            b"\x01$89426942" + bytes(19) + b"7294\r942729\ny26",
        ),
        bugs=(
            Bug(
                "a list as the key of a map is an error",
                edit(
                    resp.Decoder,
                    "next",
                    ("except NOT_RESP as", "except (hiredis.HiredisError, MemoryError) as"),
                ),
            ),
            Bug(
                "an error without a word",
                edit(resp, "error_from", ('code = text.split(" ", 1)[0]', "code = text.split()[0]")),
            ),
        ),
    ),
    Target(
        "wires",
        _wires,
        _SEEDS,
        WORDS,
        found=(
            b"\x00+OK-:\r\n>5" + bytes(60) + b":53\r\n]a\n",
            b"\x03*2\r\n$1\r\na\r\n%1\r\n+k\r\n,1.5\r\n$-1\r\n-ERR a\r\n%1\r\n",
            b"\x00+OK\r\n>1\r\n+x\r\n*1\r\n",
            b"\x00+\r\n:5\r\n$3\r\nab)1\x90",
            b"\x91:4\r\n,7\r\n,inf\r\n>0\r\n",
            b"\x9f*42-\xcd96729&\r\n\xd1\n\r\n\r\x9f*429496" + bytes(5) + b"-Ean\xe4-1\r\n*-RR(cao35\r\n\xd1\n\r\n",
        ),
        bugs=(
            Bug(
                "more than was asked for is believed",
                edit(
                    Connection,
                    "ask",
                    ("if type(reply) is bytes and not self._has_data():", "if type(reply) is bytes:"),
                ),
            ),
            Bug(
                "messages are taken for replies",
                edit(blocking.Decoder, "pop", ("while type(reply) is", "while False and type(reply) is")),
            ),
            Bug(
                "a key that is not there ends the strings",
                edit(resp.Decoder, "strings", ("elif reply is None:", "elif reply is None and not found:")),
            ),
            Bug(
                "a channel reads on after its end",
                edit(
                    Channel,
                    "_take_reply",
                    ("if len(request.replies) < request.count:", "if len(request.replies) < 2:"),
                ),
            ),
        ),
    ),
)
