"""What an attempt to connect tells of the server: a late one is repeated before it counts against a replica."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from evercache.protocol.types import Address
from evercache.raw import NotSent
from evercache.raw.connection_state import Guard, Patience
from evercache.raw.routes import MasterRoute, ReplicaRoute
from evercache.raw.source import RawOptions, Source

SERVER = Address("127.0.0.1", 6379)
LATE, REFUSED = RedisTimeoutError("late"), RedisConnectionError("refused")


class Told(Source):
    """Remembers which failures it was told of."""

    def __init__(self, wait: float = 5.0) -> None:
        super().__init__(RawOptions(wait))
        self.failures: list[tuple[Address | None, Exception]] = []

    def failed(self, address: Address | None, error: Exception) -> None:
        self.failures.append((address, error))


def attempt(source: Told, *, master: bool = False) -> tuple[Guard, Patience]:
    guard = Guard(MasterRoute(source) if master else ReplicaRoute(source))
    guard.address = SERVER
    return guard, Patience(guard)


def test_a_replica_counts_as_failed_when_it_is_late_again() -> None:
    source = Told()
    _, patience = attempt(source)
    assert patience.pause(LATE) > 0
    assert source.failures == []
    assert patience.pause(LATE) > 0
    assert patience.pause(LATE) > 0
    assert source.failures == [(SERVER, LATE), (SERVER, LATE)]


def test_one_that_refuses_counts_at_once() -> None:
    source = Told()
    _, patience = attempt(source)
    patience.pause(LATE)
    patience.pause(REFUSED)
    patience.pause(LATE)
    assert source.failures == [(SERVER, REFUSED)]


def test_where_the_greeting_fails_the_servers_are_asked_about_at_once() -> None:
    source = Told()
    guard, patience = attempt(source)
    guard.broken()  # redis-py disconnects before it raises
    patience.pause(LATE)
    assert source.failures == [(None, LATE)]


def test_a_late_master_is_asked_for_at_once() -> None:
    source = Told()
    _, patience = attempt(source, master=True)
    patience.pause(LATE)
    assert source.failures == [(SERVER, LATE)]


def test_the_last_try_counts() -> None:
    source = Told(wait=0)
    _, patience = attempt(source)
    with pytest.raises(NotSent):
        patience.pause(LATE)
    assert source.failures == [(SERVER, LATE)]


def test_the_wait_counts_from_the_loss_of_the_master(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site without a master keeps its threads for as long as a promotion is due, then for five seconds."""
    source = Source(RawOptions())
    monkeypatch.setattr(Source, "_failover_takes", lambda self: 10.0)
    assert source.until(100.0) == 110.0
    assert source.until(103.0) == 110.0
    assert source.until(120.0) == 125.0
    assert source.until(140.0) == 145.0
    assert source.until(200.0) == 210.0, "another loss: nobody missed the master in between"
    source.reached()
    assert source.until(160.0) == 170.0
    assert Source(RawOptions(3.0)).until(100.0) == 103.0
