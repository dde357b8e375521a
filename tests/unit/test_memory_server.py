"""The server inside the process: what only it has (its scripts are compared with real servers elsewhere)."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from evercache.errors import ConnectionFailed, ServerChanged, ServerError
from evercache.net.memory import (
    AsyncMemoryEndpoint,
    AsyncMemoryWire,
    MemoryServer,
    SyncMemoryEndpoint,
    SyncMemoryWire,
)
from evercache.net.types import ConnectionOptions
from evercache.protocol.commands import Bookkeeping, Commands, Limits, ScriptCall
from evercache.protocol.replies import parse_incr, parse_invalidate, parse_lease, parse_set
from evercache.protocol.scope import EVERYTHING, Scope, Subject
from evercache.protocol.types import Address

REPLID = "ab" * 20
COMMANDS = Commands(Bookkeeping("ns"), Limits(), lambda: "11fe")
HEAD: dict[str, Any] = {"replid": REPLID, "newest": 0}
ENVELOPE = b"\xe7\xca\x01" + bytes(35) + b"value"


class Clock:
    now = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> MemoryServer:
    return MemoryServer(clock, REPLID, max_entries=50)


def run(server: MemoryServer, call: ScriptCall) -> Any:
    (reply,) = SyncMemoryEndpoint(server).execute([call.evalsha()], 0)
    return reply


def write(server: MemoryServer, key: str, soft_ms: int = 1000) -> Any:
    call = COMMANDS.set(
        Subject(key), id="0" * 16, not_after_us=2**52, envelope=ENVELOPE, soft_ms=soft_ms, span_ms=500, **HEAD
    )
    return parse_set(run(server, call))


def peek(server: MemoryServer, key: str) -> Any:
    return parse_lease(run(server, COMMANDS.peek(Subject(key), least=0, **HEAD)))


def test_plain_commands(server: MemoryServer, clock: Clock) -> None:
    write(server, "ns:k")
    replies = SyncMemoryEndpoint(server).execute(
        [("PING",), ("TIME",), ("GET", "ns:k"), ("GET", "ns:none"), ("CONFIG", "GET", "*")], 0
    )
    assert replies[:2] == [b"PONG", [b"1700000000", b"0"]]
    assert replies[2].endswith(b"value")
    assert replies[3] is None
    assert isinstance(replies[4], ServerError)
    assert str(replies[4]).startswith("ERR unknown command")


async def test_both_endpoints_and_both_ways_to_name_a_script(server: MemoryServer) -> None:
    call = COMMANDS.invalidate(EVERYTHING, id="0" * 16, **HEAD)
    (first,) = await AsyncMemoryEndpoint(server).execute([call.eval()], 0)
    assert parse_invalidate(first).status == "ok"
    (second,) = SyncMemoryEndpoint(server).execute([call.evalsha()], 0)
    assert parse_invalidate(second).status == "dup"
    (other,) = SyncMemoryEndpoint(server).execute([("EVAL", "return 1", 0)], 0)
    assert isinstance(other, ServerError)


async def test_the_wires_lead_to_the_one_server(server: MemoryServer) -> None:
    address, options = Address("memory", 0), ConnectionOptions()
    write(server, "ns:k")
    sync = SyncMemoryWire(server).endpoint(address, options)
    (found,) = await AsyncMemoryWire(server).endpoint(address, options).execute([("GET", "ns:k")], 0)
    assert sync.execute([("GET", "ns:k")], 0) == [found]
    assert found is not None
    assert sync.outstanding == 0
    sync.disconnect()
    assert sync.execute([("PING",)], 0) == [b"PONG"]
    with pytest.raises(ConnectionFailed):
        await AsyncMemoryWire(server).connect(address, options, 0)


def test_an_expectation_is_asked(server: MemoryServer) -> None:
    endpoint = SyncMemoryEndpoint(server)
    assert endpoint.execute([("PING",)], 0, lambda greeting: greeting.replid == REPLID) == [b"PONG"]
    with pytest.raises(ServerChanged):
        endpoint.execute([("PING",)], 0, lambda greeting: greeting.role != "master")


def test_entries_leave_when_their_time_is_over(server: MemoryServer, clock: Clock) -> None:
    write(server, "ns:k")
    clock.now += 1_400_000
    assert peek(server, "ns:k").status == "entry"
    clock.now += 200_000
    assert peek(server, "ns:k").status == "miss"


def test_expired_entries_leave_unasked(server: MemoryServer, clock: Clock) -> None:
    for n in range(20):
        write(server, f"ns:{n}")
    clock.now += 2_000_000
    for _ in range(16):
        peek(server, "ns:none")
    assert "<MemoryServer 0 values" in repr(server)


def test_the_least_recently_used_leave_above_the_bound(server: MemoryServer) -> None:
    for n in range(50):
        write(server, f"ns:{n}")
    assert peek(server, "ns:0").status == "entry"
    for n in range(50, 60):
        write(server, f"ns:{n}")
    assert "<MemoryServer 50 values" in repr(server)
    assert peek(server, "ns:0").status == "entry"
    assert peek(server, "ns:1").status == "miss"


def test_a_clock_that_steps_back_does_no_harm(server: MemoryServer, clock: Clock) -> None:
    first = write(server, "ns:k")
    clock.now -= 3_600_000_000
    mark = parse_invalidate(run(server, COMMANDS.invalidate(Scope.of_key("ns:k"), id="1" * 16, **HEAD)))
    assert mark.stamp == first.stamp + 1
    assert mark.existed


def test_one_script_at_a_time(server: MemoryServer) -> None:
    call = COMMANDS.incr("ns:n", not_after_us=2**52, id="0" * 16, delta=1, soft_ms=10**6, span_ms=0, **HEAD)

    def count() -> None:
        for _ in range(300):
            run(server, call)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parse_incr(run(server, call)).value == 1201


def test_a_child_starts_empty_whoever_held_the_lock(server: MemoryServer) -> None:
    endpoint = SyncMemoryEndpoint(server)
    write(server, "ns:k")
    with server._lock:
        endpoint.forget()  # what the child does after a fork: nobody there will release the old lock
    assert endpoint.execute([("GET", "ns:k")], 0) == [None]
