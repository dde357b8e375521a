"""One pipelined connection inside one event loop: many tasks write into it, replies come back in order.

The commands that all tasks give in one turn of the loop leave in one write, and a reply wakes its task
without a task or a timer of its own: one watchdog timer per connection stands at the earliest deadline.

A signal handler may raise after any instruction, here and in the event loop. Replies are matched to requests by
their order alone, so after half a step each of them would go to another request. What guards against that does not
rely on an `except`, which may be interrupted too:

- A step that changes the order (write, take in) is marked in `_midway`. Where the next step finds the mark of
  another one, that was interrupted, and the connection fails.
- The loop receives into a buffer of the connection that begins with a mark. Where the mark is overwritten, and the
  loop asks for the buffer again without having passed on what it received, the connection fails.
- A request is taken from its queue only once its task has the reply, and an answered question stays in `_answered`
  until its task has gone on. What is left there, and timers and callbacks that the loop has lost, are noticed by
  the next step and by the watchdog.
"""

from __future__ import annotations

import asyncio
import os
import socket
from asyncio import current_task
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from threading import get_ident
from typing import Any, Final, cast

from hiredis import PushNotification

from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, DeadlineExceeded, ProtocolError, ServerError
from evercache.net.requests import NEVER, Exchange, Question
from evercache.net.resp import (
    NOT_RESP,
    PENDING,
    Decoder,
    confirmations,
    encode,
    encode_get,
    encode_gets,
    is_confirmation,
    is_message,
    not_resp,
    too_much,
)
from evercache.net.sockets import RECEIVE_BYTES, input_check, why
from evercache.net.types import Expectation, Greeting, OnReply
from evercache.protocol.types import Address, Command, Reply

__all__ = ["Channel"]

#: A peer that says nothing for so long (seconds), while it is asked, is dead: longer than one message may take.
_QUIET: Final = 0.15
#: Requests and bytes joined into one write, and the bytes that may wait in the transport before writing stops.
_WRITE_REQUESTS: Final = 1024
_WRITE_BYTES: Final = 256 * 1024
_HIGH_WATER: Final = 1024 * 1024
#: So many questions leave before their turn of the loop has ended: they are answered while others are asked.
_EARLY: Final = 32
#: Seconds after which a timer that has not fired is taken for lost.
_LOST: Final = 0.1
#: Bytes that the empty buffer begins with: such as nobody sends.
_MARK: Final = os.urandom(8)
#: Out-of-band messages that may wait to be read before the connection is given up.
_MAX_MESSAGES: Final = 10_000


class Channel(asyncio.BufferedProtocol):
    """A pipelined connection. No lock: everything runs in its event loop, except `forget`."""

    greeting: Greeting

    def __init__(
        self, address: Address, sock: socket.socket, loop: asyncio.AbstractEventLoop, *, keep_messages: bool
    ) -> None:
        self.address = address
        self.loop = loop
        self.thread = get_ident()  # in which the loop runs
        self._sock = sock  # for `forget`: the transport must not be touched after a fork
        self._keep_messages = keep_messages
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._outbox: list[Exchange | Question] = []
        self._inflight: deque[Exchange | Question] = deque()
        self._flushing = False  # the outbox will be written without a further word
        self._waking = False  # those who asked go on, for the reply that has just come
        self._midway = False  # in a step after half of which nothing fits together
        self._answered: list[Question] = []  # those who asked go on now
        self._buffer = bytearray(RECEIVE_BYTES)
        self._room = memoryview(self._buffer)
        self._lent = False  # the loop has the buffer
        #: A task that goes on asks for a result, and makes no use of it; that of a future costs no call.
        self._done = loop.create_future()
        self._done.set_result(None)
        self._alone = True  # one caller at a time, as far as the last write showed
        self._paused = False
        self._retired = False
        self._open = False  # connected, and neither failed nor retired
        #: The last expectation that its greeting met.
        self.met: Expectation | None = None
        self._failure: ConnectionFailed | None = None
        self._heard = 0
        #: `_heard` when a call was late and nothing had come since it was sent.
        self._suspected = -1
        self._watchdog: asyncio.TimerHandle | None = None
        self._watched = NEVER
        self._subscribed = False
        self._messages: deque[list[Any]] = deque()
        self._readers: set[asyncio.Future[None]] = set()
        self._guard: AsyncGenerator[None, None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._failure else "retired" if self._retired else "open"
        return f"<Channel {self.address} {state} waiting={len(self._inflight) + len(self._outbox)}>"

    # Life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop (`asyncio.Protocol`)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods only
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._check = input_check(transport.get_extra_info("socket"), closed_only=True)
        self._open = not self._retired and self._failure is None

    async def close_with_loop(self) -> None:
        """Arrange that a loop which is shut down without a word (`asyncio.run`) closes the connection.

        A loop that ends closes its open asynchronous generators, and so one of them can be told of it.
        """
        self._guard = self._until_shutdown()
        await anext(self._guard)

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._guard = None
            self.close()

    def meets(self, expect: Expectation) -> bool:
        """Whether it leads to the process that is meant; the hot path looks at `met` first."""
        if not expect(self.greeting):
            return False
        self.met = expect
        return True

    @property
    def usable(self) -> bool:
        """Whether a new call may use it. An idle one is looked at: its peer may have closed it just now."""
        return (
            self._open and not self._midway and (bool(self._inflight) or bool(self._outbox) or not self._check(0))
        )

    @property
    def outstanding(self) -> int:
        """Calls whose replies have not come."""
        return len(self._inflight) + len(self._outbox)

    def retire(self) -> None:
        """Take no new call, close when those under way are done (or at the deadline of the last)."""
        self._retired = True
        self._open = False
        if not self._inflight and not self._outbox:
            self.close()

    def close(self) -> None:
        """Close it; whoever waits gets `ConnectionFailed`."""
        self._fail(ConnectionFailed(f"the connection to {self.address} was closed"))

    def forget(self) -> None:
        """After a fork, in the child: close the descriptor only.

        The transport would take the socket out of the selector, which the parent still uses.
        """
        self._failure = ConnectionFailed(f"the connection to {self.address} belongs to the parent process")
        self._open = False
        self._sock.close()
        self._release_guard()

    def eof_received(self) -> None:
        """Called by the event loop (`asyncio.Protocol`); the transport closes itself then."""
        self._fail(ConnectionFailed(f"{self.address} closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop (`asyncio.Protocol`)."""
        self._fail(ConnectionFailed(f"{self.address}: {exc or 'the connection was closed'}"))

    def _fail(self, failure: ConnectionFailed) -> None:
        """End it: the calls that were sent may have run, those that were not certainly did not.

        If it is interrupted, it goes on when it is called again.
        """
        if self._failure is None:
            self._failure = failure
        elif not self._inflight and not self._outbox and not self._answered:
            return
        self._open = False
        self._unwatch()
        if self._answered:
            self._wake_left()
        kind, words = type(self._failure), str(self._failure)
        for requests, maybe_run in ((self._inflight, True), (self._outbox, False)):
            while requests:
                requests[0].fail(kind(words, maybe_run=maybe_run))
                del requests[0]
        self._wake_readers()
        self._release_guard()
        if self._transport is not None and not self.loop.is_closed():
            self._transport.abort()

    def _interrupted(self) -> None:
        """A step was left halfway."""
        self._fail(ConnectionFailed(f"the connection to {self.address} was interrupted"))

    def _release_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            try:
                guard.aclose().send(None)  # runs to its end at once: it awaits nothing
            except StopIteration:
                pass

    # Requests

    async def request(
        self, commands: Sequence[Command], deadline: float, *, first: OnReply | None = None
    ) -> list[Reply | ServerError]:
        """Send the commands with whatever else leaves in this turn of the loop, return their replies.

        A call that is cancelled or late before it was sent is not sent; afterwards its replies are dropped.
        `first` is called with the first of several replies as soon as it has come.
        """
        if not commands:
            return []
        request = self.send(commands, deadline)
        request.first = first
        replies: list[Reply | ServerError] = await request.future
        return replies

    def send(self, commands: Sequence[Command], deadline: float, until: float = NEVER) -> Exchange:
        """The same without waiting. At `until` the exchange's present future is resolved by the exchange."""
        data = encode(commands)
        subscribing: list[int] = []
        if self._keep_messages:
            subscribing = [confirmations(command) for command in commands]
            if any(subscribing):
                self._subscribed = True
            else:
                subscribing = []
        if self._failure is not None:
            raise ConnectionFailed(str(self._failure))
        now = monotonic()
        if deadline <= now:
            raise DeadlineExceeded(f"the deadline had passed before {self.address} was asked")
        request = Exchange(data, len(commands), deadline, until, self.loop.create_future(), now, self._heard)
        request.subscribing = subscribing
        self._take(request)
        return request

    def get(self, key: str, now: float, deadline: float, until: float = NEVER) -> Question | None:
        """Ask `GET key`; whoever awaits it at once gets the reply, or at `until` the exchange. None: not usable.

        A lone task's question is written at once; where several ask in one turn of the loop, theirs leave together,
        or `_EARLY` at a time.
        """
        if not self._open or self._midway:
            if self._midway:
                self._interrupted()
            return None
        idle = not self._inflight and not self._outbox
        if idle and not self._waking and self._check(0):
            return None
        question = Question()
        question._asyncio_future_blocking = True
        question._loop = self.loop
        question.key = key
        question.reply = PENDING
        question.callback = question.others = None
        question.deadline = deadline
        question.until = until
        question.heard = self._heard
        question.asked_at = question.sent_at = now
        if idle and self._alone and not self._paused:
            assert self._transport is not None
            data = encode_get(key)
            self._midway = True
            try:
                self._inflight.append(question)
                self._transport.write(data)
            except MemoryError as error:
                self._broken_off(error)
            self._midway = False
        else:
            outbox = self._outbox
            outbox.append(question)
            if len(outbox) >= _EARLY and not self._paused:
                self._write()
            elif not self._flushing or (len(outbox) == 1 and not self._waking):  # or the flush was lost
                self._flushing = True
                self.loop.call_soon(self._flush)
        if deadline < self._watched or until < self._watched or self._watched < now:
            self._watch(until if now < until < deadline else deadline)
        return question

    def _take(self, request: Exchange) -> None:
        self._outbox.append(request)
        if not self._flushing or (len(self._outbox) == 1 and not self._waking):
            self._flushing = True
            self.loop.call_soon(self._flush)
        deadline, until = request.deadline, request.until
        if deadline < self._watched or until < self._watched or self._watched < request.sent_at:
            self._watch(until if request.sent_at < until < deadline else deadline)

    def _flush(self) -> None:
        self._flushing = False
        self._write()
        self._close_if_done()

    def _broken_off(self, error: Exception) -> None:
        """Something was not written, or not whole: each further reply would be taken for another question's."""
        self._fail(ConnectionFailed(f"{self.address}: {why(error)}"))

    def _write(self) -> None:
        if self._midway:
            self._interrupted()
            return
        try:
            self._write_all()
        except MemoryError as error:
            self._broken_off(error)

    def _write_all(self) -> None:
        """Write what all tasks gave in this turn, in as few writes as the bound on memory allows."""
        now, heard = monotonic(), self._heard
        outbox, inflight = self._outbox, self._inflight
        while outbox and not self._paused and self._transport is not None and self._failure is None:
            chunks: list[bytes] = []
            keys: list[str] = []
            size = 0
            batch = outbox[:_WRITE_REQUESTS]
            sent = 0
            self._midway = True
            for request in batch:
                sent += 1
                if type(request) is Question:
                    if request.reply is not PENDING:  # cancelled or late
                        continue
                    keys.append(request.key)
                else:
                    if request.future.done():
                        continue
                    if keys:
                        chunks.append(encode_gets(keys))
                        keys = []
                    chunks.append(request.data)
                    size += len(request.data)
                    request.data = b""
                request.heard, request.sent_at = heard, now
                inflight.append(request)
                if size >= _WRITE_BYTES:
                    break
            del outbox[:sent]
            if keys:
                chunks.append(encode_gets(keys))
            if chunks:
                self._alone = len(chunks) == 1 and len(inflight) == 1
                self._transport.write(chunks[0] if len(chunks) == 1 else b"".join(chunks))
            self._midway = False

    def pause_writing(self) -> None:
        """Called by the transport when enough waits to be sent (`asyncio.Protocol`)."""
        self._paused = True

    def resume_writing(self) -> None:
        """Called by the transport when it can take more (`asyncio.Protocol`)."""
        self._paused = False
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Called by the event loop (`asyncio.BufferedProtocol`)."""
        if self._lent:
            # TLS and uvloop do so where nothing has come.
            if self._buffer[:8] != _MARK:
                self._midway = True  # the next step fails the connection: within this one, uvloop would crash
        else:
            self._buffer[:8] = _MARK
            self._lent = True
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the event loop (`asyncio.BufferedProtocol`)."""
        if self._failure is None:
            self.data_received(self._room[:nbytes].tobytes())
            self._lent = False

    def data_received(self, data: bytes) -> None:
        """Give the replies to those who wait, in order."""
        if self._midway:
            self._interrupted()
            return
        self._midway = True
        self._heard += 1
        decoder, inflight = self._decoder, self._inflight
        answered = self._answered
        if answered or self._waking:
            self._wake_left()
        try:
            whole = False
            if decoder.is_empty():
                strings, whole = decoder.strings(data)
                for reply in strings:
                    question = inflight[0] if inflight else None
                    if type(question) is Question:
                        if question.reply is PENDING:  # neither cancelled nor late
                            answered.append(question)
                            question.reply = reply
                        inflight.popleft()
                    else:
                        self._take_in(reply, answered)
            else:
                decoder.feed(data)
            if not whole:
                while (reply := decoder.gets()) is not PENDING:
                    self._take_in(reply, answered)
                if decoder.broken:
                    raise too_much()
        except ProtocolError as error:
            self._fail(error)
        except NOT_RESP as error:
            self._fail(not_resp(error))
        except BaseException:
            self._interrupted()
            raise
        self._midway = False
        if answered:
            self._wake(answered)
        if self._retired:
            self._close_if_done()

    def _take_in(self, reply: Any, answered: list[Question]) -> None:
        kind, inflight = type(reply), self._inflight
        if (kind is list or kind is PushNotification) and is_message(reply, subscribed=self._subscribed):
            self._take_message(reply)
        elif not inflight:
            raise ProtocolError(f"{self.address} sent more replies than were asked for")
        elif type(request := inflight[0]) is not Question:
            self._take_reply(request, reply)
        else:
            if request.reply is PENDING:
                answered.append(request)
                request.reply = reply
            inflight.popleft()

    def _wake(self, questions: list[Question]) -> None:
        """Go on with the tasks that asked, at once; what they ask next leaves together when all have gone on.

        As if the loop had called each of them, so nothing else may be going on: then the loop is asked to.
        """
        if current_task(self.loop) is None:
            self._flushing = self._waking = True
            done = self._done
            try:
                for question in questions:
                    if question.others is not None:
                        question.tell_others()
                    if question.callback is not None:
                        question.context.run(question.callback, done)
                questions.clear()
            except (KeyboardInterrupt, SystemExit) as error:  # of a task, and meant for the loop
                self.loop.call_soon(_raise, error)
            except RuntimeError:  # somebody goes on in that context already
                pass
            except MemoryError as error:
                self._broken_off(error)
            except BaseException:
                self._interrupted()
                raise
            self._flushing = self._waking = False
            if self._outbox:
                self._flush()
        if questions:
            self._wake_left()

    def _wake_left(self) -> None:
        """Have the loop go on with the tasks whose replies have come, and that have not gone on yet."""
        self._flushing = self._waking = False
        for question in self._answered:
            if question.reply is not PENDING:
                question.wake_soon()
        self._answered.clear()
        if self._outbox:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _take_reply(self, request: Exchange, reply: Any) -> None:
        request.replies.append(reply)
        if len(request.replies) < request.count:
            first, request.first = request.first, None
            if first is not None and not request.future.done():
                first(reply)
            return
        try:
            request.future.set_result(request.replies)
        except asyncio.InvalidStateError:
            pass  # cancelled; perhaps just now, by the handler of a signal
        self._inflight.popleft()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._inflight and not self._outbox:
            self.close()

    # Deadlines

    def _watch(self, deadline: float) -> None:
        now = monotonic()
        if self._watched < now - _LOST:
            deadline = now
        elif deadline >= self._watched:
            return
        before = self._watchdog
        self._watched = deadline
        self._watchdog = self.loop.call_later(max(deadline - now, 0), self._inspect)
        if before is not None:
            before.cancel()

    def _inspect(self) -> None:
        """Fail the calls that are late; if nothing at all came since one was sent, for a while, the peer is dead.

        Who had a few milliseconds left, on a slow network, ends no connection that others wait on.
        """
        self._watchdog, self._watched = None, NEVER
        if self._failure is not None:
            self._fail(self._failure)  # what is left of it, if it was interrupted
            return
        if self._midway:
            self._interrupted()
            return
        self._watch(monotonic() + _LOST)  # until it has come to its end
        if self._answered or self._waking:
            self._wake_left()
        now = monotonic()
        earliest = NEVER
        silent = False
        quiet_since = now
        for requests, sent in ((self._inflight, True), (self._outbox, False)):
            for at, request in enumerate(requests):
                if sent and request.heard == self._heard and request.sent_at < quiet_since:
                    quiet_since = request.sent_at
                if request.deadline > now:
                    if request.until <= now:
                        request = requests[at] = request.hand_over()
                    earliest = min(earliest, request.deadline, request.until)
                    continue
                if request.heard == self._heard and (sent or self._paused):
                    # A loop that was busy elsewhere sends late and so learns little from silence.
                    silent = silent or now - request.sent_at >= (request.deadline - request.asked_at) / 2
                request.fail(DeadlineExceeded(f"{self.address} did not answer before the deadline", maybe_run=sent))
                request.deadline = request.until = NEVER  # it is looked at no more
        if silent:
            self._suspected = self._heard
        if self._suspected == self._heard:  # nothing came since
            dead_at = quiet_since + _QUIET
            if now >= dead_at:
                self._fail(
                    ConnectionFailed(f"{self.address} is silent: nothing came before the deadline of a call")
                )
                return
            earliest = min(earliest, dead_at)
        if self._outbox and not self._paused:
            self._flush()  # which is due, if not lost
        self._watched = NEVER
        if earliest < NEVER:
            self._watch(earliest)
            return
        self._unwatch()
        if self._retired:
            self.close()

    def _unwatch(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.cancel()

    # Out-of-band messages

    def _take_message(self, message: list[Any]) -> None:
        head = self._inflight[0] if self._inflight and is_confirmation(message) else None
        if type(head) is Exchange and head.subscribing:
            at = len(head.replies)
            if head.subscribing[at] > 0:
                head.subscribing[at] -= 1
                if not head.subscribing[at]:
                    self._take_reply(head, list(message))
                return
        if not self._keep_messages:
            return
        if len(self._messages) >= _MAX_MESSAGES:
            raise ProtocolError(f"{_MAX_MESSAGES} messages of {self.address} wait unread: read them faster")
        self._messages.append(list(message))
        self._wake_readers()

    def _wake_readers(self) -> None:
        for reader in self._readers:
            with suppress(asyncio.InvalidStateError):
                reader.set_result(None)
        self._readers.clear()

    async def message(self) -> list[Any]:
        """The next out-of-band message; waits for it. `ConnectionFailed` once the connection is closed."""
        while not self._messages:
            if self._failure is not None:
                raise ConnectionFailed(str(self._failure))
            reader: asyncio.Future[None] = self.loop.create_future()
            self._readers.add(reader)
            try:
                await reader
            finally:
                self._readers.discard(reader)
        return self._messages.popleft()

    def messages(self) -> list[list[Any]]:
        """All out-of-band messages that have come."""
        taken = list(self._messages)
        self._messages.clear()
        return taken


def _raise(error: BaseException) -> None:
    raise error
