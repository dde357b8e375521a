"""What is told of the cache: once per change of state, counted, kept for health, and sent to subscribers."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evercache import Cache
from evercache.observe import Begins, Ends, Event, EventHub, Occasion, events
from evercache.observe.hub import _LIMIT, QUIET
from evercache.observe.subscribers import _LIMIT as _WAITING

ROOT = Path(__file__).parents[2]
LOST = events.MasterLost("a:1", "no answer")
KINDS = [getattr(events, name) for name in events.__all__]


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "evercache")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages, without the name of the library before them."""
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("evercache: ") for line in lines)
    return [line.removeprefix("evercache: ") for line in lines]


def example(kind: type[Event], number: int = 1) -> Event:
    """An event with plain values."""
    values: dict[str, Any] = {"str": "word", "int": number, "float": 1.5}
    return kind(**{name: values[str(kind.__annotations__[name])] for name in kind.__struct_fields__})


# -- lines of the log


def test_a_line_names_the_library_and_the_namespace(caplog: pytest.LogCaptureFixture) -> None:
    """Without a configuration `logging` prints the message only, not the name of the logger."""
    engine_events = EventHub(namespace="shop")
    engine_events.emit(events.TailBlind())
    (record,) = caplog.records
    assert record.getMessage() == f"evercache[shop]: {events.TailBlind().message}"
    assert engine_events.problems() == [events.TailBlind().message], "health() names both already"


def test_one_invalidation_is_not_some_invalidations() -> None:
    for kind in (events.InvalidationQueued, events.InvalidationsReissued, events.Spooled, events.SpoolRead):
        one, two = (example(kind, number).message for number in (1, 2))
        assert "1 invalidation" in one
        assert "invalidations" not in one
        assert "2 invalidations" in two


def test_no_line_lacks_the_name_of_the_library() -> None:
    """Loggers are made in two places, which put it there."""
    made = [path.name for path in ROOT.glob("src/**/*.py") if "getLogger(" in path.read_text(encoding="utf-8")]
    assert sorted(made) == ["hub.py", "labelled.py"]


# -- states


def test_a_state_is_told_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    hub.emit(events.MasterServes("a:1"))
    for _ in range(1_000):
        hub.emit(LOST)
    assert hub.problems() == ["the master a:1 does not serve: no answer"]
    assert repr(hub) == "<EventHub open=['master'] counted=1>"
    for _ in range(2):
        hub.emit(events.MasterServes("a:1"))
    hub.emit(LOST)
    assert said(caplog) == [LOST.message, "the master a:1 serves again", LOST.message]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert [getattr(record, "evercache_event", None) for record in caplog.records] == [
        LOST,
        events.MasterServes("a:1"),
        LOST,
    ]
    assert hub.counts() == {"MasterLost": 2, "MasterServes": 1}
    assert [event for _, event in hub.recent()] == [LOST, events.MasterServes("a:1"), LOST]


def test_another_phase_is_told_but_is_the_same_state(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    refused = events.MasterLost("a:1", "the password is wrong", "WRONGPASS")
    for event in (LOST, refused, LOST, refused, LOST):
        hub.emit(event)
    assert said(caplog) == [LOST.message, refused.message]
    assert hub.problems() == [refused.message]
    assert hub.counts() == {"MasterLost": 1}


def test_an_event_may_end_states_and_be_told_in_any_case(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    hub.emit(LOST)
    hub.emit(events.LogNotFollowed("a:1", "NOPERM"))
    hub.emit(events.MasterChanged("a:1", "b:1", 2))
    hub.emit(events.MasterServes("b:1"))
    assert hub.open == {}
    assert said(caplog)[-1] == "the master is b:1 (epoch 2)"


def test_only_what_is_grave_is_a_problem() -> None:
    hub = EventHub()
    hub.emit(events.HedgesExhausted())
    assert hub.problems() == []
    assert hub.open


def test_what_comes_at_each_call_is_told_after_a_quiet_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    hub = EventHub(clock)
    for _ in range(200):
        clock.now += QUIET / 2
        hub.emit(events.EntryCorrupt("f", "f:1", "cut short"))
    hub.emit(events.EntryCorrupt("g", "g:1", "cut short"))
    assert len(said(caplog)) == 2, "another function is told of too"
    clock.now += QUIET
    hub.emit(events.EntryCorrupt("f", "f:1", "cut short"))
    assert len(said(caplog)) == 3
    assert hub.counts() == {"EntryCorrupt": 202}
    assert hub.problems() == []
    assert [age for age, _ in hub.recent()] == [0.0, QUIET, QUIET + 199 * QUIET / 2]


def test_memory_is_bounded() -> None:
    hub = EventHub(logger=logging.getLogger("evercache.silent"))
    logging.getLogger("evercache.silent").setLevel(logging.CRITICAL)
    for number in range(_LIMIT + 5):
        hub.emit(events.ReplicaEjected(str(number), "gone"))
        hub.emit(events.EntryCorrupt(str(number), "k", "why"))
    assert len(hub.open) == len(hub._met) == _LIMIT
    assert hub.problems()[0].startswith("replica 5:")
    assert len(hub.recent()) == 50


def test_many_threads_tell_a_state_once(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    barrier = threading.Barrier(8)

    def emit() -> None:
        barrier.wait()
        for _ in range(200):
            hub.emit(LOST)
            hub.emit(events.CallFailed("DeadlineExceeded", "late"))

    threads = [threading.Thread(target=emit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hub.counts() == {"MasterLost": 1, "CallFailed": 1_600}
    assert len(said(caplog)) == 2


def test_an_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("a defect")
    except ValueError as error:
        EventHub().emit(events.Defect("a round", repr(error)), error)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.levelname == "ERROR"


# -- subscribers


def test_subscribers_are_told_in_order_on_another_thread() -> None:
    hub = EventHub()
    seen: list[tuple[Event, str]] = []
    stop = hub.subscribers.add(lambda event: seen.append((event, threading.current_thread().name)))
    for number in range(100):
        hub.emit(events.MasterChanged("", "a:1", number))
    hub.subscribers.flush(5)
    assert seen == [(events.MasterChanged("", "a:1", number), "evercache-events") for number in range(100)]
    stop()
    stop()
    hub.emit(LOST)
    hub.subscribers.flush(5)
    assert len(seen) == 100
    assert hub.subscribers._thread is None


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_one_that_raises_is_dropped_and_said(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    seen: list[Event] = []

    def wrong(event: Event) -> None:
        raise kind("in the callback")

    hub.subscribers.add(wrong)
    hub.subscribers.add(seen.append)
    hub.emit(LOST)
    hub.emit(events.MasterServes("a:1"))
    hub.subscribers.flush(5)
    (dropped,) = [event for event in seen if isinstance(event, events.SubscriberDropped)]
    assert "wrong" in dropped.callback
    assert [event for event in seen if event is not dropped] == [LOST, events.MasterServes("a:1")]
    assert len([line for line in said(caplog) if "called no more" in line]) == 1


def test_one_that_hangs_holds_up_nobody_and_costs_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    go, begun = threading.Event(), threading.Event()
    seen: list[Event] = []

    def slow(event: Event) -> None:
        begun.set()
        go.wait(10)
        seen.append(event)

    hub.subscribers.add(slow)
    hub.emit(events.MasterChanged("", "a:1", 0))
    assert begun.wait(5)
    for number in range(1, _WAITING + 10):
        hub.emit(events.MasterChanged("", "a:1", number))
    go.set()
    hub.subscribers.flush(5)
    assert len(seen) == _WAITING + 1
    assert seen[0] == events.MasterChanged("", "a:1", 0)
    assert seen[-1] == events.MasterChanged("", "a:1", _WAITING + 9)
    assert hub.counts()["EventsDropped"] >= 9
    assert len([line for line in said(caplog) if "too slow" in line]) == 1


def test_a_callback_may_emit_and_leave() -> None:
    hub = EventHub()
    seen: list[Event] = []

    def once(event: Event) -> None:
        stop()
        hub.emit(events.TopologyUnknown("who knows"))
        hub.subscribers.flush(1)
        seen.append(event)

    stop = hub.subscribers.add(once)
    hub.emit(LOST)
    hub.subscribers.flush(5)
    assert seen == [LOST]


def test_a_cache_tells_its_subscribers_and_its_health() -> None:
    seen: list[Event] = []
    with Cache("memory://") as cache:
        stop = cache.subscribe(seen.append)

        @cache.cached(name="odd")
        def odd(number: int) -> object:
            return object()

        odd(1)
        odd(1)
        odd(2)
        health = cache.health()
        assert health.events == {"UncacheableResult": 3}
        (recent,) = health.recent
        assert (recent.kind, recent.level) == ("UncacheableResult", "WARNING")
        assert 0 <= recent.age < 5
        assert "object" in recent.message
        assert health.ok
        assert json.loads(json.dumps(asdict(health)))["recent"][0]["kind"] == "UncacheableResult"
    stop()
    assert [type(event) for event in seen] == [events.UncacheableResult], "close() waits until it was told"


def test_a_subscriber_from_before_a_fork_is_told_in_the_child_too() -> None:
    code = """
import os, threading
from evercache.observe import EventHub, events
hub, told = EventHub(), threading.Event()
hub.subscribers.add(lambda event: told.set())
hub.emit(events.MasterLost("a:1", "no answer"))
assert told.wait(5)
hub.subscribers.flush(5)
told.clear()
pid = os.fork()
if not pid:
    hub.subscribers.after_fork()
    hub.emit(events.MasterServes("a:1"))
    os._exit(0 if told.wait(5) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert done.returncode == 0


# -- all kinds


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_says_what_it_means(kind: type[Event]) -> None:
    event = example(kind)
    assert event.kind == kind.__name__
    assert "{" not in event.message
    assert event.message == str(event)
    assert inspect.getdoc(kind)
    assert not hasattr(event, "__dict__"), "slots"
    hash(event)
    json.dumps(msgspec.structs.asdict(event))
    if isinstance(event, Begins):
        assert event.state
    if isinstance(event, Ends):
        assert event.ends
    if isinstance(event, Occasion):
        assert event.topic.startswith(event.kind)


def test_each_state_that_begins_can_end() -> None:
    begun = {example(kind).state for kind in KINDS if issubclass(kind, Begins)}
    ended = {state for kind in KINDS for state in example(kind).ends}
    assert begun - ended == {"gevent"}, "a patched process stays patched"
    assert ended - begun == set()


def test_the_list_of_kinds_is_whole() -> None:
    classes = {name for name, value in vars(events).items() if inspect.isclass(value) and issubclass(value, Event)}
    assert classes - {"Event", "Begins", "Ends", "Occasion"} == set(events.__all__)


def test_every_kind_is_emitted_somewhere() -> None:
    made: set[str] = set()
    for path in ROOT.glob("src/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "events":
                    made.add(node.func.attr)
                elif isinstance(node.func, ast.Name):
                    made.add(node.func.id)
    assert set(events.__all__) - made == set()


def test_the_page_lists_every_kind_with_its_level_and_form() -> None:
    page = (ROOT / "docs/events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`(?: / `(\w+)`)? \| (\w+)", page, re.M)
    listed: dict[str, str] = {}
    for first, second, level in rows:
        assert first not in listed
        listed[first] = level
        if second:
            assert second not in listed
            assert issubclass(getattr(events, second), Ends), second
            listed[second] = "INFO"
            ends = example(getattr(events, second)).ends
            assert getattr(example(getattr(events, first)), "state", "") in ends
    assert set(listed) == set(events.__all__)
    assert {name: logging.getLevelName(getattr(events, name).level) for name in listed} == listed


# -- before the first master


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    grave = [record.levelno >= logging.WARNING for record in caplog.records]
    return [line for line, is_grave in zip(said(caplog), grave, strict=True) if is_grave]


def test_wrong_settings_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """What follows from there never having been a master is counted, and a problem, but no line of its own."""
    hub = EventHub()
    hub.emit(events.MasterLost("a:1", "check the password", "WRONGPASS"))
    for _ in range(100):
        hub.emit(events.InvalidationQueued(1, "check the password"))
        hub.emit(events.ReplicaEjected("b:1", "check the password", "WRONGPASS"))
        hub.emit(events.GutterUsed())
    assert warnings(caplog) == ["the master a:1 does not serve: check the password"]
    assert len(said(caplog)) == 4, "at the level of DEBUG"
    assert len(hub.problems()) == 4
    assert hub.counts() == {"MasterLost": 1, "InvalidationQueued": 1, "ReplicaEjected": 1, "GutterUsed": 1}


def test_with_the_first_master_what_is_still_wrong_with_replicas_is_told(caplog: pytest.LogCaptureFixture) -> None:
    hub = EventHub()
    hub.emit(events.ReplicaEjected("b:1", "no answer"))
    hub.emit(events.ReplicaEjected("c:1", "no answer"))
    hub.emit(events.ReplicaReturned("c:1"))
    hub.emit(events.InvalidationQueued(1, "no master"))
    assert warnings(caplog) == []
    hub.emit(events.Resynced("a:1", "start"))
    assert warnings(caplog) == ["replica b:1: no answer"]
    hub.emit(events.ReplicaEjected("d:1", "no answer"))
    hub.emit(events.QueueEmptied())
    hub.emit(events.InvalidationQueued(2, "no master"))
    assert warnings(caplog)[1:] == ["replica d:1: no answer", events.InvalidationQueued(2, "no master").message]
    hub.emit(events.Resynced("a:1", "gap"))
    assert len(warnings(caplog)) == 3
