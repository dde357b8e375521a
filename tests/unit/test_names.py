"""Host names are looked up within the caller's time, whatever the system's resolver does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from evercache.clock import monotonic
from evercache.net.names import Resolver, _Lookup
from evercache.protocol.types import Address

NAME = Address("db.example.test", 6379)
FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 6379))]
RECORDS = [(socket.AF_INET, ("127.0.0.1", 6379))]


class System:
    """The system's resolver: what it answers, when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: BaseException | None = None
        self.answers = threading.Event()
        self.answers.set()

    def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        assert self.answers.wait(20)
        if self.error is not None:
            raise self.error
        return FOUND


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    made = System()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.answers.set()


def soon(seconds: float = 0.1) -> float:
    return monotonic() + seconds


def test_an_answer(system: System) -> None:
    assert Resolver().records(NAME, soon(10)) == RECORDS


async def test_an_answer_to_a_task(system: System) -> None:
    assert await Resolver().arecords(NAME, soon(10)) == RECORDS


def test_nobody_waits_beyond_the_time(system: System) -> None:
    system.answers.clear()
    resolver = Resolver()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            resolver.records(NAME, soon(0.02))
    assert system.asked == 1, "one thread asks, whoever waits"


async def test_no_task_waits_beyond_the_time(system: System) -> None:
    system.answers.clear()
    resolver = Resolver()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await resolver.arecords(NAME, soon(0.02))
    assert system.asked == 1
    system.answers.set()
    assert await resolver.arecords(NAME, soon(10)) == RECORDS


def test_the_last_answer_serves_while_there_is_none(system: System) -> None:
    resolver = Resolver()
    assert resolver.records(NAME, soon(10)) == RECORDS
    system.answers.clear()
    assert resolver.records(NAME, soon(0.05)) == RECORDS


@pytest.mark.parametrize("temporary", [True, False])
def test_a_refusal(system: System, temporary: bool) -> None:
    """A name that cannot be looked up now keeps its addresses; one that does not exist has none."""
    resolver = Resolver()
    assert resolver.records(NAME, soon(10)) == RECORDS
    system.error = socket.gaierror(socket.EAI_AGAIN if temporary else socket.EAI_NONAME, "no")
    if temporary:
        assert resolver.records(NAME, soon(10)) == RECORDS
    else:
        with pytest.raises(socket.gaierror):
            resolver.records(NAME, soon(10))


def test_without_any_answer_the_refusal_is_the_answer(system: System) -> None:
    system.error = socket.gaierror(socket.EAI_AGAIN, "no")
    with pytest.raises(socket.gaierror):
        Resolver().records(NAME, soon(10))


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_thread_that_could_not_be_started_is_started_for_the_next_caller(
    system: System, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise error

    resolver, began = Resolver(), monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match=NAME.host) as caught:
            resolver.records(NAME, soon(10))
        assert not isinstance(caught.value, TimeoutError)
    assert monotonic() - began < 5, "nobody waits for an answer that cannot come"
    assert resolver.records(NAME, soon(10)) == RECORDS
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert resolver.records(NAME, soon(10)) == RECORDS, "what it said before"


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        socket.gaierror(socket.EAI_MEMORY, "no"),
        socket.gaierror(socket.EAI_SYSTEM, "no"),
        MemoryError(),
        SystemExit(),
    ],
)
def test_a_resolver_that_lacks_something_keeps_its_addresses_and_is_asked_again(system: System, error: Any) -> None:
    resolver = Resolver()
    assert resolver.records(NAME, soon(10)) == RECORDS
    system.error = error
    assert resolver.records(NAME, soon(10)) == RECORDS
    with pytest.raises(OSError):
        resolver.records(Address("other.example.test", 6379), soon(10))
    system.error = None
    assert resolver.records(NAME, soon(10)) == RECORDS
    assert system.asked == 4


def test_a_lookup_that_was_interrupted_before_its_thread_began_is_begun_again(system: System) -> None:
    resolver = Resolver()
    resolver._asked[NAME] = _Lookup()
    assert resolver.records(NAME, soon(10)) == RECORDS
    assert not resolver._asked


def test_all_who_wait_get_the_answer_though_one_took_the_wake_up_and_was_interrupted(system: System) -> None:
    system.answers.clear()
    joined = threading.Semaphore(0)

    class Watched(Resolver):
        def _ask(self, address: Address) -> _Lookup:
            asked = super()._ask(address)
            joined.release()
            return asked

    resolver, answers = Watched(), []
    threads = [threading.Thread(target=lambda: answers.append(resolver.records(NAME, soon(10)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:  # one that came after the answer would ask again
        assert joined.acquire(timeout=10)
    asked = resolver._ask(NAME)
    system.answers.set()
    assert asked._over.wait(5)
    for thread in threads:
        thread.join(10)
    assert answers == [RECORDS] * 3
    assert system.asked == 1
