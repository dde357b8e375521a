"""What a task awaits of the pipelined connection, and how it goes on (net/requests.py, `Channel._wake`)."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, DeadlineExceeded
from evercache.net.channel import _EARLY, Channel
from evercache.net.requests import Exchange, Question
from evercache.net.resp import encode_get
from evercache.net.types import Greeting
from evercache.protocol.types import Address

Test = Callable[[], Awaitable[None]]


def both(test: Test) -> Callable[[str], None]:
    """Run on either kind of event loop."""

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    def run(loop: str) -> None:
        if loop == "asyncio":
            asyncio.run(test())
        else:
            pytest.importorskip("uvloop").run(test())

    run.__doc__ = test.__doc__
    return run


class Peer:
    """The other end of a channel."""

    def __init__(self, channel: Channel, sock: socket.socket) -> None:
        self.channel, self._sock = channel, sock

    def ask(self, key: str, patience: float = 30.0, late: float = 60.0) -> Question:
        now = monotonic()
        question = self.channel.get(key, now, now + patience, now + late)
        assert question is not None
        return question

    async def asked(self, *keys: str) -> None:
        """Wait until these have been asked, and no more."""
        wanted, found = b"".join(map(encode_get, keys)), b""
        while len(found) < len(wanted):
            found += await asyncio.get_running_loop().sock_recv(self._sock, 1000)
        assert found == wanted

    def sent(self) -> bytes:
        """What has been asked so far, and not looked at."""
        try:
            return self._sock.recv(10_000)
        except BlockingIOError:
            return b""

    def answer(self, *values: bytes) -> None:
        self._sock.sendall(b"".join(b"$%d\r\n%s\r\n" % (len(value), value) for value in values))


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    near, far = socket.socketpair()
    far.setblocking(False)
    loop = asyncio.get_running_loop()
    address = Address("10.0.0.1")
    _, channel = await loop.create_connection(lambda: Channel(address, near, loop, keep_messages=False), sock=near)
    channel.greeting = Greeting("r", "master", "", "valkey", (9,), 0, 0.0)
    try:
        yield Peer(channel, far)
    finally:
        channel.close()
        far.close()
        await asyncio.sleep(0)


async def started(*waiting: Awaitable[Any]) -> list[asyncio.Task[Any]]:
    async def run(one: Awaitable[Any]) -> Any:
        return await one

    tasks = [asyncio.create_task(run(one)) for one in waiting]
    await asyncio.sleep(0)
    return tasks


@both
async def test_tasks_go_on_in_the_turn_in_which_the_replies_come() -> None:
    """In the order in which they asked, each in its own context, and what they ask next leaves together."""
    told: contextvars.ContextVar[str] = contextvars.ContextVar("told")
    order: list[str] = []
    async with peer() as other:

        async def work(name: str) -> bytes:
            told.set(name)
            first = await other.ask(name)
            assert told.get() == name
            assert asyncio.current_task() is tasks[int(name)]
            order.append(name)
            second: bytes = await other.ask(f"{name}, again")
            return first + second

        tasks = [asyncio.create_task(work(name)) for name in "0123"]
        await other.asked(*"0123")
        other.answer(*(b"%d" % n for n in range(4)))
        await other.asked("0, again", "1, again", "2, again", "3, again")
        assert order == list("0123")
        other.answer(*b"a b c d".split())
        assert await asyncio.gather(*tasks) == [b"0a", b"1b", b"2c", b"3d"]


async def test_of_many_that_ask_in_one_turn_the_first_leave_before_it_ends() -> None:
    """The very first at once, as it is alone then. (uvloop keeps what is written until the turn ends.)"""
    async with peer() as other:
        names = [str(n) for n in range(2 * _EARLY + 2)]
        _ = [other.ask(name) for name in names]
        assert other.sent() == b"".join(map(encode_get, names[:-1]))  # and the loop has not gone on
        await other.asked(names[-1])


@both
async def test_where_writing_is_paused_nothing_leaves_early() -> None:
    async with peer() as other:
        other.channel.pause_writing()
        names = [str(n) for n in range(2 * _EARLY)]
        _ = [other.ask(name) for name in names]
        await asyncio.sleep(0)
        assert other.sent() == b""
        other.channel.resume_writing()
        await other.asked(*names)


@both
async def test_a_lone_task_asks_again_at_once() -> None:
    async with peer() as other:

        async def work() -> list[bytes]:
            return [await other.ask(str(n)) for n in range(3)]

        (task,) = await started(work())
        for n in range(3):
            await other.asked(str(n))
            other.answer(b"%d" % n)
        assert await task == [b"0", b"1", b"2"]


@both
async def test_a_task_that_is_cancelled_takes_nobody_along() -> None:
    async with peer() as other:
        tasks = await started(*(other.ask(key) for key in "abc"))
        await other.asked(*"abc")
        tasks[1].cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await tasks[1]
        other.answer(b"A", b"B", b"C")
        assert await tasks[0] == b"A"
        assert await tasks[2] == b"C"


@both
async def test_one_that_was_cancelled_before_it_was_sent_is_not_sent() -> None:
    async with peer() as other:
        questions = [other.ask(key) for key in "xab"]  # the first is sent at once
        assert questions[1].cancel()
        assert questions[1].cancelled()
        tasks = await started(questions[0], questions[2])
        await other.asked("x", "b")
        other.answer(b"X", b"B")
        assert await asyncio.gather(*tasks) == [b"X", b"B"]
        assert not questions[2].cancel()


@both
async def test_a_task_that_is_cancelled_by_one_that_went_on_before_it_is_cancelled() -> None:
    """Its reply is there already: as with a future, it does not get it."""
    async with peer() as other:

        async def first() -> None:
            await other.ask("a")
            tasks[1].cancel()

        async def second() -> str:
            try:
                await other.ask("b")
            except asyncio.CancelledError:
                return "cancelled"
            return "answered"

        tasks = [asyncio.create_task(first()), asyncio.create_task(second())]
        await other.asked("a", "b")
        other.answer(b"A", b"B")
        assert await tasks[1] == "cancelled"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_task_that_ends_the_program_ends_it(loop: str) -> None:
    """Not only the connection. Those that would go on after it are cancelled with the rest, as with futures."""
    tasks: list[asyncio.Task[Any]] = []

    async def main() -> None:
        async with peer() as other:

            async def leave() -> None:
                await other.ask("a")
                raise SystemExit(7)

            tasks.extend((asyncio.create_task(leave()), *await started(other.ask("b"))))
            await other.asked("b", "a")
            other.answer(b"B", b"A")
            await asyncio.sleep(30)

    run = asyncio.run if loop == "asyncio" else pytest.importorskip("uvloop").run
    with pytest.raises(SystemExit, match="7"):
        run(main())
    assert isinstance(tasks[0].exception(), SystemExit)
    assert tasks[1].result() == b"B"


@both
async def test_replies_that_come_while_a_task_runs_wake_nobody_before_it_pauses() -> None:
    """A task cannot go on inside another one: the loop goes on with it."""
    async with peer() as other:
        (task,) = await started(other.ask("a"))
        await other.asked("a")
        other.channel.data_received(b"$1\r\nA\r\n")
        assert not task.done()
        assert await task == b"A"


@both
async def test_a_task_whose_context_is_in_use_goes_on_after_that() -> None:
    async with peer() as other:
        context = contextvars.copy_context()

        async def work(key: str) -> Any:
            return await other.ask(key)

        tasks = [asyncio.create_task(work(key), context=context) for key in "ab"]
        await other.asked(*"ab")
        heard = other.channel.data_received
        asyncio.get_running_loop().call_soon(heard, b"$1\r\nA\r\n$1\r\nB\r\n", context=context)
        assert await asyncio.gather(*tasks) == [b"A", b"B"]


@both
async def test_others_are_told_and_the_late_are_given_the_exchange() -> None:
    async with peer() as other:
        question = other.ask("a", late=0.01)
        told: list[Question] = []
        (task,) = await started(question)
        question.add_done_callback(told.append)
        question.add_done_callback(told.append)
        exchange = await task
        assert isinstance(exchange, Exchange)
        assert question.result() is exchange
        await asyncio.sleep(0)
        assert told == [question, question]
        other.answer(b"A")
        assert await exchange.future == [b"A"] == exchange.result()


@both
async def test_what_does_not_come_fails() -> None:
    async with peer() as other:
        late, (task,) = other.ask("a", 0.02), await started(other.ask("b", 30.0))
        with pytest.raises(DeadlineExceeded):
            await late
        assert isinstance(late.exception(), DeadlineExceeded)
        assert not late.cancelled()
        with pytest.raises(ConnectionFailed, match="silent"):
            await task  # nothing at all came


async def test_tasks_written_in_python_wait_for_it_too() -> None:
    async with peer() as other:

        async def work() -> bytes:
            return await other.ask("a")  # type: ignore[no-any-return]

        loop = asyncio.get_running_loop()
        task: asyncio.Task[bytes] = asyncio.tasks._PyTask(work(), loop=loop)  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        await other.asked("a")
        other.channel._sock.setblocking(False)
        other.answer(b"A")
        assert await task == b"A"


class Interrupt(BaseException):
    """What a signal handler raises."""


class Interrupted:
    """A transport of which a call is interrupted."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        raise Interrupt

    def abort(self) -> None:
        self._transport.abort()


@both
async def test_a_question_that_was_noted_and_not_written_fails_the_connection() -> None:
    """Its reply would be that of the next one."""
    async with peer() as other:
        (task,) = await started(other.ask("a"))
        await other.asked("a")
        other.answer(b"A")
        assert await task == b"A"
        channel = other.channel
        channel._transport = Interrupted(channel._transport)  # type: ignore[assignment]
        with pytest.raises(Interrupt):
            other.ask("b")
        now = monotonic()
        assert channel.get("c", now, now + 30) is None
        assert not channel.usable
        assert channel.outstanding == 0


@both
async def test_a_chunk_that_was_received_and_not_passed_on_fails_the_connection() -> None:
    async with peer() as other:
        tasks = await started(other.ask("a"), other.ask("b"))
        await other.asked("a", "b")
        channel = other.channel
        channel.get_buffer(-1)[:7] = b"$1\r\nA\r\n"  # and the loop is interrupted
        other.answer(b"B")
        for task in tasks:
            with pytest.raises(ConnectionFailed, match="interrupted"):
                await task


@both
async def test_a_buffer_into_which_nothing_came_is_lent_again() -> None:
    """TLS and uvloop ask for it where there is nothing to receive."""
    async with peer() as other:
        (task,) = await started(other.ask("a"))
        for _ in range(3):
            other.channel.get_buffer(-1)
        other.answer(b"A")
        assert await task == b"A"


@both
async def test_tasks_whose_answers_came_go_on_once_though_the_connection_was_interrupted() -> None:
    async with peer() as other:
        tasks = await started(other.ask("a"), other.ask("b"))
        await other.asked("a", "b")
        channel, went_on = other.channel, []
        for task in tasks:
            task.add_done_callback(went_on.append)
        questions = list(channel._inflight)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Channel, "_wake", lambda self, questions: None)  # as if it had been interrupted at once
            channel.data_received(b"$1\r\nA\r\n$1\r\nB\r\n")
        questions[0].wake_soon()  # type: ignore[union-attr]
        channel._inspect()
        channel._inspect()
        assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [b"A", b"B"]
        assert len(went_on) == 2


@both
async def test_a_timer_and_a_flush_that_the_loop_has_lost_are_made_anew() -> None:
    async with peer() as other:
        channel = other.channel
        assert channel._watchdog is None
        channel._watched = monotonic() - 1.0  # and no timer
        channel._flushing = True  # and no call
        question = other.ask("a", patience=0.05)
        exchange = channel.send([("GET", "b")], monotonic() + 0.05)
        for one in (question, exchange.future):
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(one, 5)
        assert other.sent() == encode_get("a") + encode_get("b")
