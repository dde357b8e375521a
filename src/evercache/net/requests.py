"""What is under way on a pipelined connection: the commands of one call, or one question.

Both belong to one event loop, so they have no lock. Times are those of `evercache.clock.monotonic()`.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import CancelledError
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Final, final

from evercache.errors import UnavailableError
from evercache.net.resp import PENDING, encode_get
from evercache.net.types import Over

__all__ = ["NEVER", "Exchange", "Question"]

NEVER: Final = float("inf")
#: In the place of a reply that will not come.
_FAILED: Final = object()
_NONE: Final[list[Any]] = []


@final
class Exchange:
    """Commands of one call and the replies so far (`wire.types.AsyncExchange`)."""

    __slots__ = (
        "asked_at",
        "count",
        "data",
        "deadline",
        "first",
        "future",
        "heard",
        "replies",
        "sent_at",
        "subscribing",
        "until",
    )

    def __init__(
        self,
        data: bytes,
        count: int,
        deadline: float,
        until: float,
        future: asyncio.Future[Any],
        now: float,
        heard: int,
    ) -> None:
        self.data = data
        self.count = count
        self.deadline = deadline
        #: Resolved by the replies; at `until` by this exchange itself, and another future takes its place.
        self.future = future
        self.until = until
        self.replies: list[Any] = []
        #: Told of the first of several replies.
        self.first: Callable[[Any], None] | None = None
        #: Confirmations that still have to come for each command (empty: none of them subscribes).
        self.subscribing: list[int] = _NONE
        self.heard = heard  # `Channel._heard` when it was sent, or taken while writing is paused
        self.asked_at = self.sent_at = now

    def __repr__(self) -> str:
        return f"<Exchange {len(self.replies)} of {self.count} replies>"

    def done(self) -> bool:
        """Whether whoever waits has something, or was cancelled."""
        return self.future.done()

    def fail(self, error: BaseException) -> None:
        """Whoever waits gets the error, if he waits still."""
        with contextlib.suppress(asyncio.InvalidStateError):
            self.future.set_exception(error)

    def hand_over(self) -> Exchange:
        """Give the exchange itself to whoever waits for its replies, which go into another future."""
        self.until = NEVER
        waiting = self.future
        if not waiting.done():
            self.future = waiting.get_loop().create_future()
            self.future.add_done_callback(_look_at)  # whoever waited may be cancelled before it has the exchange
            waiting.set_result(self)
        return self

    def result(self) -> list[Any]:
        """See `AsyncExchange.result`."""
        replies: list[Any] = self.future.result()
        return replies

    def abandon(self, over: Over) -> None:
        """See `AsyncExchange.abandon`: the replies are taken from the stream in their turn, and dropped."""

        def done(future: asyncio.Future[Any]) -> None:
            error = None if future.cancelled() else future.exception()
            over(error if isinstance(error, UnavailableError) else None)

        self.future.add_done_callback(done)


def _look_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


@final
class Question:
    """One `GET`, and what the one task that asked awaits: nearly every read makes one.

    To asyncio it is like a future (`asyncio.isfuture`): a task waits for it in the same way. A future would wake
    its task in the next turn of the loop, by a callback that costs more than all that is done here. The connection
    goes on with those who asked by itself, in the turn in which the replies came (`Channel._wake`).

    It has no constructor, since its fields are cheaper to set from outside.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_loop",
        "asked_at",
        "callback",
        "context",
        "deadline",
        "error",
        "heard",
        "key",
        "others",
        "reply",
        "sent_at",
        "until",
    )

    #: What asyncio asks of what a task waits for: true until a task does, and the loop.
    _asyncio_future_blocking: bool
    _loop: asyncio.AbstractEventLoop
    key: str
    #: `PENDING`; the reply; or at `until` an `Exchange`, which stands in the queue of the connection from then on.
    reply: Any
    error: BaseException
    #: What goes on with the task, and where; None before it waits. Then what others want to be told.
    callback: Callable[[Any], object] | None
    context: Context
    others: list[tuple[Callable[[Question], object], Context | None]] | None
    deadline: float
    until: float
    heard: int
    asked_at: float
    sent_at: float

    def __repr__(self) -> str:
        return f"<Question {self.key!r} {'done' if self.done() else 'pending'}>"

    def __await__(self) -> Generator[Question, None, Any]:
        if self.reply is PENDING:
            yield self  # what fails is thrown in here
            return self.reply
        return self.result()

    # What a task, and who joins it, uses of a future

    def done(self) -> bool:
        """See `asyncio.Future.done`."""
        return self.reply is not PENDING

    def cancelled(self) -> bool:
        """See `asyncio.Future.cancelled`."""
        return self.reply is _FAILED and isinstance(self.error, CancelledError)

    def exception(self) -> BaseException | None:
        """See `asyncio.Future.exception`; only once it is done."""
        return self.error if self.reply is _FAILED else None

    def result(self) -> Any:
        """See `asyncio.Future.result`; only once it is done."""
        if self.reply is _FAILED:
            raise self.error
        return self.reply

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """See `asyncio.Future.add_done_callback`. The first is that of the task that asked."""
        if self.reply is not PENDING:
            self._loop.call_soon(callback, self, context=context)
        elif self.callback is None and context is not None:
            self.callback, self.context = callback, context
        elif self.others is None:
            self.others = [(callback, context)]
        else:
            self.others.append((callback, context))

    def cancel(self, msg: object = None) -> bool:
        """See `asyncio.Future.cancel`: the reply is dropped when it comes."""
        if self.reply is not PENDING:
            return False
        self.fail(CancelledError() if msg is None else CancelledError(msg))
        return True

    # What the connection does with it

    def fail(self, error: BaseException) -> None:
        """Whoever waits gets the error, if he waits still."""
        if self.reply is PENDING:
            self.wake_soon()
            self.error = error
            self.reply = _FAILED

    def wake_soon(self) -> None:
        """Go on with the task, and tell the others, in the next turn of the loop.

        Called before the reply is set: if the caller is interrupted between the two, it does so again.
        """
        if self.callback is not None:
            self._loop.call_soon(self._go_on, context=self.context)
        self.tell_others()

    def _go_on(self) -> None:
        """Go on with the task if it waits for this still: whoever was interrupted asks for it twice."""
        callback = self.callback
        if callback is None or self.reply is PENDING:
            return
        if getattr(getattr(callback, "__self__", None), "_fut_waiter", self) is self:
            callback(self)

    def tell_others(self) -> None:
        """Tell those who joined: at least once."""
        for callback, context in self.others or ():
            self._loop.call_soon(callback, self, context=context)
        self.others = None

    def hand_over(self) -> Exchange | Question:
        """Give an exchange to whoever waits, which takes the place of this question."""
        self.until = NEVER
        if self.reply is not PENDING:
            return self
        exchange = Exchange(
            encode_get(self.key), 1, self.deadline, NEVER, self._loop.create_future(), self.asked_at, self.heard
        )
        exchange.sent_at = self.sent_at
        exchange.future.add_done_callback(_look_at)
        self.wake_soon()
        self.reply = exchange
        return exchange
