"""The short way of both wires, `endpoint.get`, at peers that answer as badly as they can."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any

import pytest
import trustme
from tests.real.wire_peers import Caller, Peer, answer_greeting, bulk, commands_of

from evercache.clock import monotonic
from evercache.errors import ConnectionFailed, DeadlineExceeded, ServerError, UnavailableError
from evercache.net.blocking import BlockingWire
from evercache.net.types import ConnectionOptions, TLSOptions

Answer = Callable[[Any, str], None]


@pytest.fixture(params=["blocking", "pipelined"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    one = Caller(request.param)
    yield one
    one.close()


@pytest.fixture(params=["tcp", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def peer_that(answer: Answer, tls: ssl.SSLContext | None = None) -> Peer:
    """A peer that greets, and answers each `GET key` by `answer(connection, key)`."""

    def handler(connection: socket.socket) -> None:
        near = tls.wrap_socket(connection, server_side=True) if tls is not None else connection
        with near:
            for command in commands_of(near):
                if not answer_greeting(near, command):
                    answer(near, command[1].decode())

    return Peer(handler)


def get(caller: Caller, endpoint: Any, key: str, seconds: float = 5.0, until: float = inf) -> Any:
    now = monotonic()
    if caller._runner is None:
        return endpoint.get(key, now, seconds, lambda greeting: True, until - now)

    async def got() -> Any:
        return await endpoint.get(key, now, seconds, lambda greeting: True, until - now)

    return caller._runner.run(got())


REPLIES = {
    b"$0\r\n\r\n": b"",
    b"$5\r\nhello\r\n": b"hello",
    b"$4\r\n\r\n\r\n\r\n": b"\r\n\r\n",
    b"$10\r\n$3\r\nabc\r\nx\r\n": b"$3\r\nabc\r\nx",
    b"$-1\r\n": None,
    b"_\r\n": None,
    b":5\r\n": 5,
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_may_be_cut_anywhere(caller: Caller, reply: bytes) -> None:
    def answer(connection: Any, key: str) -> None:
        cut = int(key)
        connection.sendall(reply[:cut])
        time.sleep(0.005)
        connection.sendall(reply[cut:])

    with peer_that(answer) as peer:
        endpoint = caller.endpoint(peer.address)
        for cut in range(1, len(reply) + 1):
            assert get(caller, endpoint, str(cut)) == REPLIES[reply]
        assert peer.accepted == 1, "no connection was given up"


@pytest.mark.parametrize("size", [100, 16_000, 65_530, 65_536, 200_000])
def test_values_of_all_sizes_come_whole(caller: Caller, size: int, transport: str, authority: trustme.CA) -> None:
    def answer(connection: Any, key: str) -> None:
        connection.sendall(bulk(key.encode()[:1] * size))

    with peer_that(answer, served(authority) if transport == "tls" else None) as peer:
        endpoint = caller.endpoint(peer.address, **asked(authority, transport))
        for key in ("a", "é", "x" * 2000):
            assert get(caller, endpoint, key) == key.encode()[:1] * size
        assert peer.accepted == 1
        caller.close()


def served(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def asked(authority: trustme.CA, transport: str) -> dict[str, Any]:
    return {} if transport == "tcp" else {"tls": TLSOptions(verify=False)}


JUNK = (
    b"$" + b"9" * 5000 + b"\r\n",
    b"$" + b"1" * 20 + b"\r\n",
    b"$\r\n",
    b"$5",
    b"$5\r\nhel",
    b"$-5\r\n",
    b"$3\r\nabcd\r\n",
    b"$03\r\nabc\r\n$3\r\nabc\r\n",
    b"*4000000000\r\n",  # the parser would make that list at once, with every thread stopped
    b"$5\r\nhello\r\n*4000000000\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00\xff" * 10,
    b"",
)


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk[:12]))
def test_what_is_no_reply_is_an_error_in_time(caller: Caller, junk: bytes) -> None:
    def answer(connection: Any, key: str) -> None:
        if key == "junk":
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
        else:
            connection.sendall(bulk(key.encode()))

    with peer_that(answer) as peer:
        endpoint = caller.endpoint(peer.address)
        assert get(caller, endpoint, "a") == b"a"
        began = monotonic()
        try:
            assert get(caller, endpoint, "junk", 1.0) in (b"abc", b"abcd", b"hello")
        except UnavailableError:
            pass
        assert monotonic() - began < 1.2
        for key in "bcd":
            assert get(caller, endpoint, key) == key.encode()


@pytest.mark.parametrize("transport", ["tcp", "tls"], indirect=True)
def test_a_late_reply_is_nobody_elses(caller: Caller, transport: str, authority: trustme.CA) -> None:
    """Most are in time, many come around the deadline, some after it, some in drops; none goes to another key."""
    rng = random.Random(7)

    def answer(connection: Any, key: str) -> None:
        pause, reply = float(key.split("-")[1]), bulk(key.encode())
        half = rng.randrange(len(reply))
        time.sleep(pause / 2)
        connection.sendall(reply[:half])
        time.sleep(pause / 2)
        connection.sendall(reply[half:])

    with peer_that(answer, served(authority) if transport == "tls" else None) as peer:
        endpoint = caller.endpoint(peer.address, **asked(authority, transport))
        answers, late = 0, 0
        get(caller, endpoint, "0-0.0")
        for n in range(50):
            pause = rng.choice((0.0, 0.0, 0.0, 0.001, 0.05, 0.052, 0.1))
            key = f"{n}-{pause}"
            until = monotonic() + 0.03 if n % 3 == 0 else inf
            try:
                reply = get(caller, endpoint, key, 0.05, until)
            except UnavailableError:
                late += 1
                continue
            if hasattr(reply, "abandon"):
                reply.abandon(lambda error: None)
                late += 1
                continue
            assert reply == key.encode()
            answers += 1
        assert answers  # not many on a busy machine: after each late one there is a handshake
        assert late
        caller.close()


def test_threads_that_share_a_pool_get_their_own_answers() -> None:
    def answer(connection: Any, key: str) -> None:
        time.sleep(float(key.split("-")[1]))
        connection.sendall(bulk(key.encode()))

    with peer_that(answer) as peer:
        endpoint = BlockingWire().endpoint(peer.address, ConnectionOptions(connect_timeout=2.0, max_connections=3))

        def ask(thread: int) -> tuple[int, int]:
            rng, good, late = random.Random(thread), 0, 0
            for n in range(60):
                key = f"{thread}.{n}-{rng.choice((0.0, 0.0, 0.0, 0.002, 0.03))}"
                now = monotonic()
                until = now + 0.008 if n % 4 == 0 else inf
                try:
                    reply = endpoint.get(key, now, 0.015, lambda greeting: True, until - now)
                except UnavailableError:
                    late += 1
                    continue
                if hasattr(reply, "abandon"):
                    reply.abandon(lambda error: None)
                    late += 1
                    continue
                assert reply == key.encode()
                good += 1
                if n % 16 == 0:
                    endpoint.sweep()
            return good, late

        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(ask, range(6)))
        assert all(good for good, _ in results)
        end = monotonic() + 2.0
        while endpoint.outstanding and monotonic() < end:
            endpoint.sweep()
            time.sleep(0.01)
        assert endpoint.outstanding == 0, "every place came back"
        endpoint.disconnect()
        assert not [made for made in endpoint._all if made() is not None]


def test_an_exception_out_of_the_blue_costs_no_place() -> None:
    """A signal handler may raise wherever Python looks for signals: while a connection is looked at, too."""

    class Blue(BaseException):
        pass

    def raises(greeting: Any) -> bool:
        raise Blue

    with peer_that(lambda connection, key: connection.sendall(bulk(key.encode()))) as peer:
        endpoint = BlockingWire().endpoint(peer.address, ConnectionOptions(connect_timeout=2.0, max_connections=2))
        for n in range(5):
            now = monotonic()
            assert endpoint.get("a", now, 1.0, lambda greeting: True) == b"a", n
            with pytest.raises(Blue):
                endpoint.get("a", now, 1.0, raises)
            assert endpoint.outstanding == 0
        endpoint.disconnect()


def test_a_connection_that_was_disconnected_while_it_was_asked_is_closed() -> None:
    asked_now, go_on = threading.Event(), threading.Event()

    def answer(connection: Any, key: str) -> None:
        if key == "slow":
            asked_now.set()
            go_on.wait(5)
        connection.sendall(bulk(key.encode()))

    with peer_that(answer) as peer, ThreadPoolExecutor(1) as pool:
        endpoint = BlockingWire().endpoint(peer.address, ConnectionOptions(connect_timeout=2.0))
        now = monotonic()
        endpoint.get("a", now, 5.0, lambda greeting: True)
        future = pool.submit(endpoint.get, "slow", now, now + 5, lambda greeting: True)
        asked_now.wait(5)
        endpoint.disconnect()
        go_on.set()
        assert future.result() == b"slow"
        assert endpoint.outstanding == 0
        assert not [made for made in endpoint._all if made() is not None]
        assert not endpoint._idle


def test_errors_are_values_and_a_dead_peer_is_asked_anew(caller: Caller) -> None:
    def answer(connection: Any, key: str) -> None:
        if key == "error":
            connection.sendall(b"-WRONGTYPE no\r\n")
        elif key == "close":
            connection.sendall(bulk(b"bye"))
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(bulk(key.encode()))

    with peer_that(answer) as peer:
        endpoint = caller.endpoint(peer.address)
        assert isinstance(get(caller, endpoint, "error"), ServerError)
        for n in range(20):
            assert get(caller, endpoint, "close") == b"bye"
            try:
                assert get(caller, endpoint, f"after-{n}") == f"after-{n}".encode()
            except ConnectionFailed:  # tasks share a connection: the end of it is news to all of them
                assert caller.kind == "pipelined"


def test_a_frozen_peer_takes_its_time_only(caller: Caller) -> None:
    with peer_that(lambda connection, key: time.sleep(0.3)) as peer:
        endpoint = caller.endpoint(peer.address)
        for seconds in (0.2, 0.03, 0.005):
            began = monotonic()
            with pytest.raises(DeadlineExceeded):
                get(caller, endpoint, "x", seconds)
            assert monotonic() - began < seconds + 0.15
