"""The blocking wire: its pool, threads, stale connections."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.real.wire_peers import Peer, answer_greeting, commands_of
from tests.servers import Server, wait_for

from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, DeadlineExceeded, PoolExhausted, ServerChanged
from evercache.net.blocking import BlockingEndpoint, BlockingWire
from evercache.net.types import ConnectionOptions
from evercache.protocol.types import Address


def endpoint_of(address: Address, **options: Any) -> BlockingEndpoint:
    return BlockingWire().endpoint(address, ConnectionOptions(**{"connect_timeout": 2.0} | options))


def ask(endpoint: BlockingEndpoint, *command: Any, timeout: float = 5, expect: Any = None) -> Any:
    return endpoint.execute([command], monotonic() + timeout, expect)[0]


def in_thread(function: Any, *arguments: Any, **options: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, kwargs=options)
    thread.start()
    return thread


def test_nothing_happens_before_the_first_use() -> None:
    before = threading.active_count()
    with Peer(lambda connection: None) as peer:
        endpoint = endpoint_of(peer.address)
        assert repr(endpoint) == f"<Endpoint {peer.address} idle=0 in_use=0>"
        assert peer.accepted == 0
    assert threading.active_count() == before


def test_the_most_recently_used_connection_comes_first(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    blocked = in_thread(ask, endpoint, "BLPOP", "list", 0)
    wait_for(lambda: valkey.info("clients")["blocked_clients"] == "1")
    assert repr(endpoint).endswith("idle=0 in_use=1>")
    assert endpoint.outstanding == 1
    ask(endpoint, "RPUSH", "list", "x")
    blocked.join()
    assert repr(endpoint).endswith("idle=2 in_use=0>")
    ids = {ask(endpoint, "CLIENT", "ID") for _ in range(10)}
    assert len(ids) == 1
    endpoint.disconnect()
    assert repr(endpoint).endswith("idle=0 in_use=0>")


def test_the_pool_is_bounded_and_waited_for(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address, max_connections=1)
    blocked = in_thread(ask, endpoint, "BLPOP", "list", 0)
    wait_for(lambda: valkey.info("clients")["blocked_clients"] == "1")
    start = monotonic()
    with pytest.raises(PoolExhausted, match="raise max_connections") as caught:
        ask(endpoint, "PING", timeout=0.1)
    assert 0.09 < monotonic() - start < 1.5
    assert caught.value.maybe_run is False
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, endpoint, "ECHO", f"{number}") for number in range(3)]
        wait_for(lambda: endpoint.outstanding == 4)
        valkey.cli("RPUSH", "list", "x")
        assert [one.result() for one in waiting] == [b"0", b"1", b"2"]
    blocked.join()
    assert endpoint.outstanding == 0
    endpoint.disconnect()


def test_many_threads_on_few_connections(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address, max_connections=4, client_name="many")

    def work(worker: int) -> int:
        for number in range(150):
            text = f"{worker}:{number}".encode()
            if ask(endpoint, "ECHO", text) != text:
                return 1
        return 0

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, range(16))) == 0
    clients = valkey.cli("CLIENT", "LIST").count("name=many ")
    assert 1 <= clients <= 4
    assert endpoint.outstanding == 0
    endpoint.disconnect()


def test_a_failure_gives_the_place_back(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address, max_connections=1)
    for _ in range(3):
        with pytest.raises(DeadlineExceeded):
            ask(endpoint, "BLPOP", "none", 0, timeout=0.03)
        with pytest.raises(ServerChanged):
            ask(endpoint, "PING", expect=lambda greeting: False)
        with pytest.raises(ZeroDivisionError):
            ask(endpoint, "PING", expect=lambda greeting: 1 / 0)
        assert repr(endpoint).endswith("idle=0 in_use=0>")
    assert ask(endpoint, "PING") == b"PONG"
    valkey.kill()
    with pytest.raises(ConnectionFailed):
        ask(endpoint, "PING")
    valkey.restart()
    assert ask(endpoint, "PING") == b"PONG"
    endpoint.disconnect()


def test_all_stale_connections_are_passed_over(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    barrier = threading.Barrier(4)

    def together(_: int) -> None:
        barrier.wait()
        ask(endpoint, "BLPOP", "none", 0.05)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(together, range(4)))
    assert "idle=4" in repr(endpoint)
    valkey.cli("CLIENT", "KILL", "TYPE", "normal")
    assert ask(endpoint, "INCR", "n") == 1
    assert repr(endpoint).endswith("idle=1 in_use=0>")
    endpoint.disconnect()


def test_disconnect_while_in_use(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    replies: list[Any] = []
    blocked = in_thread(lambda: replies.append(ask(endpoint, "BLPOP", "list", 0)))
    wait_for(lambda: valkey.info("clients")["blocked_clients"] == "1")
    endpoint.disconnect()
    ask(endpoint, "RPUSH", "list", "x")
    blocked.join()
    assert replies == [[b"list", b"x"]]
    assert repr(endpoint).endswith("idle=1 in_use=0>")  # the one of RPUSH; that of BLPOP was closed
    endpoint.disconnect()


def test_forget_while_another_thread_holds_everything(valkey: Server) -> None:
    """What a fork leaves behind: a lock held by nobody, a connection in use by nobody."""
    endpoint = endpoint_of(valkey.address, max_connections=1, client_name="forgetful")
    ask(endpoint, "PING")
    assert endpoint._lock.acquire()
    endpoint.forget()
    assert ask(endpoint, "PING") == b"PONG"
    wait_for(lambda: valkey.cli("CLIENT", "LIST").count("name=forgetful ") == 1)
    endpoint.disconnect()


def test_a_request_that_the_peer_does_not_read_is_bounded() -> None:
    def deaf(connection: socket.socket) -> None:
        for command in commands_of(connection):
            answer_greeting(connection, command)
            if command[0] == b"TIME":
                release.wait(10)

    release = threading.Event()
    with Peer(deaf) as peer:
        endpoint = endpoint_of(peer.address)
        start = monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            ask(endpoint, "SET", "k", b"x" * 20_000_000, timeout=1.0)
        assert monotonic() - start < 4
        assert caught.value.maybe_run is True
        release.set()


def test_out_of_band_messages_are_dropped(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address, max_connections=1)
    ask(endpoint, "CLIENT", "TRACKING", "ON")
    ask(endpoint, "GET", "k")
    commands = [("SET", "k", "1"), ("GET", "k"), ("SET", "k", "2"), ("ECHO", "x")]
    assert endpoint.execute(commands, monotonic() + 5) == [b"OK", b"1", b"OK", b"x"]
    endpoint.disconnect()
