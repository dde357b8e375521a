"""An exception of a signal handler at every point of every change of the state: nothing is lost, all repaired."""

from __future__ import annotations

import asyncio
import dis
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from evercache import Cache
from evercache.client.request import Plan
from evercache.client.sharing import _wake, join
from evercache.codecs import Encoder
from evercache.engine.flights import Owner
from evercache.engine.state import State
from evercache.observe import Counters
from evercache.policy import Settings
from evercache.protocol.envelope import pack, unpack
from evercache.protocol.journal import Journal
from evercache.protocol.replies import KnownMarks, LogLine, ResyncReply
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

ONE = Subject("ns:1", "app.f", (tag_hash("a"),))
KEY, FUNCTION, TAG = Scope.of_key("ns:1"), Scope.of_function("app.f"), Scope.of_tag("a")


class Interrupted(BaseException):
    """Raised by the handler."""


def interrupted(point: int, call: Callable[[], object]) -> bool:
    """Call, and raise at the point of that number at which CPython runs signal handlers; False if there is none.

    That is where a function begins, after a call, and where a loop begins again.
    """
    count, last = 0, dict[FrameType, str]()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if "evercache" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        after = last.get(frame, "") if event == "opcode" else event
        if event == "opcode":
            last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        if after == "call" or after.startswith(("CALL", "JUMP_BACKWARD")):
            count += 1
            if count == point:
                raise Interrupted
        return trace

    before = sys.gettrace()
    gc.disable()  # what it raises in a finalizer of another test's objects reaches nobody
    sys.settrace(trace)
    try:
        call()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
        last.clear()  # a frame that is kept keeps what it owns
    return False


def points(call: Callable[[], Callable[[], object]], most: int = 3_000) -> Iterator[int]:
    """Every point of what `call` prepares, each on something new."""
    for point in range(1, most):
        if not interrupted(point, call()):
            assert point > 1
            return
        yield point
    raise AssertionError("more points than expected")


def made(limit: int = 20_000, pending_limit: int = 1_000) -> State:
    state = State(Settings(), lambda: 100.0, random.Random(1))
    state.journal = Journal(limit=limit, pending_limit=pending_limit)
    state.resynced(ResyncReply("ok", 0, "g1", tip=1, gens=(("g1", 0),), life="l1"), "run", [], 100.0)
    state.clock.observe(1_000_000_000, 100.0)
    for number in range(3):
        state.hear_line(line(Scope.of_key(f"ns:{number}"), 10 + number, f"h{number}"))
        state.hear_line(line(Scope.of_tag(f"t{number}"), 20 + number, f"t{number}"))
    return state


def line(scope: Scope, stamp: int, id: str) -> LogLine:
    fields = {"id": id, "kind": scope.kind, "name": scope.name, "stamp": stamp, "generation": "g1"}
    return LogLine(**fields, log_id="1-1", previous="0-0", version=1)  # type: ignore[arg-type]


def check(state: State, covered: bool | None = None) -> None:
    """Everything fits together after the next change, and goes on working."""
    with state.lock:
        assert state.lock._is_owned()
    state.reclaim()
    assert not state.torn
    journal = state.journal
    for subject in (ONE, Subject("ns:2", "app.g")):
        by_hand = [item for item in journal.pending.values() if item.scope.covers(subject)]
        assert journal.covers(subject) is bool(by_hand)
    assert all(item.due is not None for item in journal.pending.values()), "who sends it?"
    if covered is not None:
        assert journal.covers(ONE) is covered
    assert set(journal._newest.values()) == set(journal._recorded.values())
    assert journal._scopes.total() == len(journal._recorded)
    for item in list(journal.pending.values()):
        state.acknowledged(item, state.marks.newest + 1, "g1")
    assert not journal.pending
    assert state.marks.need(ONE) >= 11, "a mark that was known"
    lost = state.resynced(
        ResyncReply("ok", 0, "g2", tip=0, gens=(("g1", 0), ("g2", 1)), life="l2"), "run", [], 100.0
    )
    assert 0 < lost <= len(journal.pending)  # and everything, where what was recorded had to be dropped
    state.near.put("ns:7", unpack(pack(payload=b"x", stamp=99, soft_ms=1)), 101.0)
    state.near.drop("ns:7")
    assert (len(state.near), state.near.size) == (0, 0)


@pytest.mark.parametrize("scope", [KEY, FUNCTION, TAG, EVERYTHING], ids=str)
def test_rule_4_an_invalidation_that_has_begun_is_sent_by_the_background(scope: Scope) -> None:
    made_now: list[State] = []

    def call() -> Callable[[], object]:
        state = made()
        made_now[:] = [state]
        return lambda: state.begin(scope, "app.f", Owner())

    for _ in points(call):
        (state,) = made_now
        known = bool(state.journal.pending)
        check(state, known)


def changes() -> dict[str, Callable[[State], Callable[[], object]]]:
    """What changes the state, by name: given a state, what is to be called."""

    def acknowledged(state: State) -> Callable[[], object]:
        item = state.begin(KEY, "app.f", None)
        item.due = 0.0
        return lambda: state.acknowledged(item, 30, "g1")

    def replayed(state: State) -> Callable[[], object]:
        item = state.begin(KEY, "app.f", None)
        item.due = 0.0
        state.journal._generations = (("g0", 0), ("g1", 5))
        return lambda: state.acknowledged(item, 30, "g0")

    def given_up(state: State) -> Callable[[], object]:
        for number in range(4):
            state.given_up(state.begin(Scope.of_key(f"ns:{number}"), "app.f"))
        item = state.begin(KEY, "app.f", Owner())
        return lambda: state.given_up(item)

    def superseded(state: State) -> Callable[[], object]:
        state.given_up(state.begin(KEY))
        item = state.begin(KEY, "", Owner())

        def both() -> None:
            state.acknowledged(item, 31, "g1")
            state.supersedes(item)

        return both

    def learnt(state: State) -> Callable[[], object]:
        known = KnownMarks(tip=40, everything=0, function=39, tagfloor=0, tags=((tag_hash("a"), 38),))
        return lambda: state.learn(ONE, known)

    def near(state: State) -> Callable[[], object]:
        for number in range(3):
            state.put_near(
                Subject(f"ns:{number}"), unpack(pack(payload=b"x", stamp=50, soft_ms=2_000_000)), 5, 1, 0
            )
        return lambda: state.put_near(ONE, unpack(pack(payload=b"y", stamp=50, soft_ms=2_000_000)), 5, 1, 0)

    def marked(state: State) -> Callable[[], object]:
        return lambda: state.hear_line(line(KEY, 60, "marked"))

    return {
        "acknowledged": acknowledged,
        "acknowledged by a master that was replaced": replayed,
        "given up": given_up,
        "superseded": superseded,
        "learnt": learnt,
        "kept near": near,
        "a line of the log": marked,
    }


@pytest.mark.parametrize("name", changes())
@pytest.mark.parametrize("limits", [{}, {"limit": 6, "pending_limit": 2}], ids=["roomy", "full"])
def test_a_change_that_is_interrupted_anywhere_loses_nothing(name: str, limits: dict[str, int]) -> None:
    before: list[Any] = []

    def call() -> Callable[[], object]:
        state = made(**limits)
        work = changes()[name](state)
        before[:] = [state, dict(state.journal.pending), dict(state.journal._recorded)]
        return work

    for _ in points(call):
        state, pending, recorded = before
        with state.lock, state.change:
            pass
        for item in pending.values():
            stands_for = [
                *(other for other in state.journal.pending.values() if not item.scope.name or _within(item, other)),
                *(other for other in state.journal._recorded.values() if other.scope == item.scope),
            ]
            assert stands_for, item
        if not limits:
            assert set(recorded) <= {*state.journal._recorded, *state.journal.pending} | {
                item.id for item in recorded.values() if item.scope == KEY
            }
        check(state)


def _within(item: Any, other: Any) -> bool:
    return other.scope in (item.scope, EVERYTHING, Scope.of_function(item.function))


def test_a_mark_that_was_known_is_never_forgotten_by_hearing_another() -> None:
    states: list[State] = []

    def call() -> Callable[[], object]:
        state = made()
        state.hear_line(line(TAG, 70, "x"))
        state.hear_line(line(KEY, 71, "y"))
        states[:] = [state]

        def hear() -> None:
            state.hear_line(line(TAG, 80, "z"))
            state.hear_line(line(KEY, 81, "w"))

        return hear

    for _ in points(call):
        assert states[0].marks.need(Subject("ns:0", "", (tag_hash("a"),))) >= 70
        assert states[0].marks.need(Subject("ns:1")) >= 71


def test_flights_and_leases_of_a_call_that_was_interrupted_are_given_back() -> None:
    state = made()

    def lead() -> None:
        caller = Owner()
        flight, leads = state.join_or_lead(ONE, 0, caller, joinable=True)
        assert leads
        state.ask_for(flight)
        state.claim(["ns:1"], caller)

    for _ in points(lambda: lead, 300):
        leases, _, _ = state.reclaim()
        assert state.flights.under_way == len(state.leases) == len(state.refreshing) == 0
        assert len(leases) <= 1


def test_who_joined_a_flight_whose_leader_ended_asks_again() -> None:
    state = made()
    leader = Owner()
    flight, _ = state.join_or_lead(ONE, 0, leader, joinable=True)
    assert state.join_or_lead(ONE, 0, Owner(), joinable=True) == (flight, False)
    del leader
    again, leads = state.join_or_lead(ONE, 0, caller := Owner(), joinable=True)
    assert leads
    assert again is not flight
    state.reclaim()
    assert flight.done.done
    assert flight.done.result is None
    assert not again.done.done
    assert not caller.over


def test_an_owner_that_is_over_owns_nothing_though_a_traceback_keeps_it() -> None:
    state = made()
    leader = Owner()
    flight, _ = state.join_or_lead(ONE, 0, leader, joinable=True)
    leader.over = True
    state.reclaim()
    assert flight.done.done


async def test_a_shared_read_that_nobody_took_away_is_not_joined_for_ever() -> None:
    state = made()
    read: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    read.set_result(b"old")
    plan = Plan("app.f", Encoder(), Counters(), 0.0, 0.1, 0.0)
    state.reading["ns:1"] = read, None, 99.5, plan, 0
    assert await join(state, plan, "ns:1", 100.0) is None
    state.reading["ns:1"] = read, None, 98.0, plan, 0
    state.reclaim()
    assert not state.reading


async def test_an_exception_while_the_waiters_of_a_read_are_woken_loses_none() -> None:
    loop = asyncio.get_running_loop()
    read: asyncio.Future[None] = loop.create_future()
    for point in range(1, 50):
        waiters = [loop.create_future() for _ in range(3)]
        waiting: dict[Any, list[Any]] = {read: list(waiters)}
        if not interrupted(point, lambda waiting=waiting: _wake(waiting, read)):
            break
        _wake(waiting, read)  # the timer: asyncio loses a callback that was not begun
        async with asyncio.timeout(5):
            await asyncio.gather(*waiters)
        await asyncio.sleep(0)
        assert not waiting
    else:
        raise AssertionError("more points than expected")
    assert point > 3


def test_what_a_signal_handler_raises_in_a_function_is_for_its_own_caller() -> None:
    """Celery's soft time limit is an `Exception`: neither others get it, nor is it cached."""

    class SoftLimit(Exception):
        pass

    def limit(_signal: int, _frame: Any) -> None:
        raise SoftLimit

    ran: list[str] = []
    begun = threading.Event()
    with Cache("memory://", namespace="limits") as cache:

        @cache.cached(cache_errors={Exception: 60})
        def f() -> str:
            ran.append(threading.current_thread().name)
            if len(ran) == 1:
                begun.set()
                time.sleep(10)
            return "value"

        others: list[str] = []

        def join() -> None:
            begun.wait(10)
            others.append(f())

        thread = threading.Thread(target=join)
        thread.start()
        before = signal.signal(signal.SIGALRM, limit)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(SoftLimit):
                f()
        finally:
            signal.signal(signal.SIGALRM, before)
        thread.join(10)
        assert others == ["value"]
        assert f() == "value"
        assert len(ran) == 2
