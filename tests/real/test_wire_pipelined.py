"""The pipelined wire: one connection for all tasks of a loop, deadlines, many loops, pub/sub."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import threading
import time
from typing import Any

import pytest
from tests.real.wire_peers import Peer, answer_greeting, bulk, commands_of, relay
from tests.servers import Server, wait_for

from evercache.clock import monotonic
from evercache.errors import AccessDenied, ConnectionFailed, DeadlineExceeded, ProtocolError, ServerError
from evercache.net.pipelined import PipelinedConnection, PipelinedEndpoint, PipelinedWire
from evercache.net.types import ConnectionOptions, Credentials
from evercache.protocol.types import Address

_test = itertools.count()
_name = ""


@pytest.fixture(autouse=True)
def client_name() -> None:
    """A name of its own for each test, as the server sees the end of a connection a little later."""
    global _name
    _name = f"evercache-{next(_test)}-"


def endpoint_of(address: Address, **options: Any) -> PipelinedEndpoint:
    return PipelinedWire().endpoint(
        address, ConnectionOptions(**{"connect_timeout": 2.0, "client_name": _name} | options)
    )


async def connection_to(address: Address, **options: Any) -> PipelinedConnection:
    settings = ConnectionOptions(**{"connect_timeout": 2.0, "client_name": _name} | options)
    return await PipelinedWire().connect(address, settings, monotonic() + 5)


async def ask(target: PipelinedEndpoint | PipelinedConnection, *command: Any, timeout: float = 5) -> Any:
    return (await target.execute([command], monotonic() + timeout))[0]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def connected(server: Server) -> int:
    return server.cli("CLIENT", "LIST").count(f"name={_name} ")


async def test_all_tasks_share_one_connection(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    asked = [ask(endpoint, "ECHO", f"{number}") for number in range(500)]
    assert await asyncio.gather(*asked) == [b"%d" % number for number in range(500)]
    assert connected(valkey) == 1
    assert repr(endpoint) == f"<Endpoint {valkey.address} connections=1 in_use=0>"
    endpoint.disconnect()


async def test_one_turn_of_the_loop_is_one_write() -> None:
    chunks: list[int] = []

    def count(connection: socket.socket) -> None:
        for command in commands_of(connection):
            if not answer_greeting(connection, command):
                break
            if command[0] == b"TIME":
                while data := connection.recv(1_000_000):
                    chunks.append(data.count(b"ECHO"))
                    connection.sendall(b"+x\r\n" * chunks[-1])

    with Peer(count) as peer:
        endpoint = endpoint_of(peer.address)
        await ask(endpoint, "ECHO", "first")
        await asyncio.gather(*[ask(endpoint, "ECHO", "x") for _ in range(100)])
        assert chunks == [1, 100]
        endpoint.disconnect()


async def test_a_cold_endpoint_connects_once() -> None:
    def answer(connection: socket.socket) -> None:
        for command in commands_of(connection):
            if not answer_greeting(connection, command):
                connection.sendall(b"+x\r\n")

    with Peer(answer) as peer:
        endpoint = endpoint_of(peer.address)
        assert await asyncio.gather(*[ask(endpoint, "GET", "k") for _ in range(50)]) == [b"x"] * 50
        assert peer.accepted == 1
        endpoint.disconnect()


async def test_a_failing_connect_reaches_all_who_wait() -> None:
    with Peer(lambda connection: None) as peer:
        endpoint = endpoint_of(peer.address)
        asked = [ask(endpoint, "GET", "k") for _ in range(20)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert all(type(result) is ConnectionFailed and not result.maybe_run for result in results)
        assert len({id(result) for result in results}) == 20
        assert endpoint.outstanding == 0


async def test_who_is_cancelled_while_connecting_disturbs_nobody(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    first = asyncio.create_task(ask(endpoint, "ECHO", "1"))
    second = asyncio.create_task(ask(endpoint, "ECHO", "2"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"2"
    with pytest.raises(asyncio.CancelledError):
        await first
    endpoint.disconnect()


async def test_a_cancelled_call_keeps_the_order(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    await ask(endpoint, "PING")
    # Before it was sent: it does not run.
    never = asyncio.create_task(ask(endpoint, "INCR", "never"))
    asyncio.get_running_loop().call_soon(never.cancel)
    with pytest.raises(asyncio.CancelledError):
        await never
    assert await ask(endpoint, "EXISTS", "never") == 0
    # After: its reply goes to nobody.
    for _ in range(20):
        sent = asyncio.create_task(ask(endpoint, "INCR", "sent"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        sent.cancel()
        assert await ask(endpoint, "ECHO", "mine") == b"mine"
        await asyncio.gather(sent, return_exceptions=True)
    assert await ask(endpoint, "GET", "sent") == b"20"
    assert connected(valkey) == 1
    assert endpoint.outstanding == 0
    endpoint.disconnect()


async def test_a_late_reply_is_dropped_in_order() -> None:
    """Something came since the late call was sent, so the connection is alive and stays."""

    def slow(connection: socket.socket) -> None:
        for command in commands_of(connection):
            if not answer_greeting(connection, command):
                if command[1] == b"late":
                    release.wait(10)
                connection.sendall(bulk(command[1]))

    release = threading.Event()
    with Peer(slow) as peer:
        endpoint = endpoint_of(peer.address)
        await ask(endpoint, "ECHO", "warm")
        early, late = ask(endpoint, "ECHO", "early"), ask(endpoint, "ECHO", "late", timeout=0.4)
        after = asyncio.create_task(ask(endpoint, "ECHO", "after"))
        results = await asyncio.gather(early, late, return_exceptions=True)
        assert results[0] == b"early"
        assert isinstance(results[1], DeadlineExceeded)
        assert results[1].maybe_run is True
        release.set()
        assert await after == b"after"
        assert peer.accepted == 1
        endpoint.disconnect()


async def test_a_silent_connection_is_given_up() -> None:
    with Server.start("valkey") as server:
        endpoint = endpoint_of(server.address)
        await ask(endpoint, "PING")
        server.freeze()
        start = monotonic()
        short, long = ask(endpoint, "INCR", "a", timeout=0.1), ask(endpoint, "INCR", "b", timeout=3)
        results = await asyncio.gather(short, long, return_exceptions=True)
        assert [type(result) for result in results] == [DeadlineExceeded, ConnectionFailed]
        assert all(result.maybe_run for result in results if isinstance(result, ConnectionFailed))
        assert monotonic() - start < 2
        assert "connections=0" in repr(endpoint)
        server.thaw()
        assert await ask(endpoint, "ECHO", "x") == b"x"
        endpoint.disconnect()


async def test_who_is_in_a_hurry_ends_no_connection_of_others() -> None:
    """A server that is only late for a moment: of two calls on the connection the patient one is answered."""
    with Server.start("valkey") as server:
        endpoint = endpoint_of(server.address)
        await ask(endpoint, "PING")
        server.freeze()
        start = monotonic()
        short, long = ask(endpoint, "INCR", "a", timeout=0.02), ask(endpoint, "INCR", "b", timeout=10)
        answers = asyncio.gather(short, long, return_exceptions=True)
        await asyncio.sleep(0.04)
        server.thaw()
        first, second = await answers
        if monotonic() - start < 0.12:  # else the machine stood still
            assert isinstance(first, DeadlineExceeded)
            assert second == 1
            assert "connections=1" in repr(endpoint)
        endpoint.disconnect()


async def test_a_loop_that_was_busy_does_not_blame_the_server(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    await ask(endpoint, "PING")
    # The reply came while the loop was held: it counts, although the deadline has passed.
    call = asyncio.create_task(ask(endpoint, "ECHO", "x", timeout=0.05))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.3)
    assert await call == b"x"
    # Held before anything was sent: the call is late, did not run, and the connection stays.
    call = asyncio.create_task(ask(endpoint, "INCR", "n", timeout=0.05))
    asyncio.get_running_loop().call_soon(time.sleep, 0.2)
    with pytest.raises(DeadlineExceeded):
        await call
    assert connected(valkey) == 1
    assert "connections=1" in repr(endpoint)
    endpoint.disconnect()


async def test_writes_that_nobody_reads_are_bounded() -> None:
    def deaf(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for command in commands_of(connection):
            answer_greeting(connection, command)
            if command[0] == b"TIME":
                release.wait(10)

    release = threading.Event()
    with Peer(deaf) as peer:
        connection = await connection_to(peer.address)
        channel = connection._channel
        value = b"x" * 200_000
        calls = [asyncio.create_task(channel.request([("SET", "k", value)], monotonic() + 0.5)) for _ in range(200)]
        await asyncio.sleep(0.1)
        assert channel._transport is not None
        assert channel._transport.get_write_buffer_size() < 2_000_000
        results = await asyncio.gather(*calls, return_exceptions=True)
        maybe_run = [result.maybe_run for result in results if isinstance(result, Exception)]
        assert len(maybe_run) == 200
        assert maybe_run == sorted(maybe_run, reverse=True)  # what was sent may have run, the rest did not
        assert 0 < sum(maybe_run) < 100
        release.set()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_calls_of_a_loop_that_was_closed_count_no_more(valkey: Server) -> None:
    """A load balancer would avoid the server for them."""
    endpoint, loop = endpoint_of(valkey.address), asyncio.new_event_loop()
    call = loop.create_task(ask(endpoint, "BLPOP", "none", 0))
    open_then = None
    while open_then is None or not open_then.outstanding:
        loop.run_until_complete(asyncio.sleep(0.01))
        known = endpoint._slots[loop].channel
        open_then = None if known is None else known()
    loop.close()  # as after an interrupt: nobody has ended its tasks
    assert open_then.outstanding == 1
    assert endpoint.outstanding == 0
    call._log_destroy_pending = False  # type: ignore[attr-defined]
    del call, loop, open_then
    gc.collect()


def test_a_loop_that_ends_leaves_nothing(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    for number in range(5):
        assert asyncio.run(ask(endpoint, "INCR", "n")) == number + 1
    wait_for(lambda: connected(valkey) == 0)
    gc.collect()
    assert len(endpoint._slots) <= 1
    assert endpoint.outstanding == 0
    # asyncio.run ended this, too: a call under way.
    call = ask(endpoint, "BLPOP", "none", 0)

    async def abandon() -> None:
        task = asyncio.create_task(call)
        await asyncio.sleep(0.05)
        assert not task.done()

    asyncio.run(abandon())
    wait_for(lambda: connected(valkey) == 0)


def test_loops_of_several_threads(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    failures: list[Any] = []
    connected_all = threading.Barrier(4, timeout=20)

    async def work(thread: int) -> None:
        await ask(endpoint, "PING")  # a `disconnect` fails those who wait for a connection
        await asyncio.to_thread(connected_all.wait)
        for number in range(30):
            texts = [f"{thread}:{number}:{one}".encode() for one in range(10)]
            if await asyncio.gather(*[ask(endpoint, "ECHO", text) for text in texts]) != texts:
                failures.append(thread)
        if thread == 0:
            endpoint.disconnect()

    threads = [threading.Thread(target=lambda n=n: asyncio.run(work(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    wait_for(lambda: connected(valkey) == 0)


async def test_disconnect_from_another_thread_lets_calls_end(valkey: Server) -> None:
    endpoint = endpoint_of(valkey.address)
    blocked = asyncio.create_task(ask(endpoint, "BLPOP", "list", 0))
    await until(lambda: valkey.info("clients")["blocked_clients"] == "1")
    await asyncio.to_thread(endpoint.disconnect)
    assert await ask(endpoint, "RPUSH", "list", "x") == 1
    assert await blocked == [b"list", b"x"]
    await until(lambda: connected(valkey) == 1)
    endpoint.disconnect()
    await until(lambda: connected(valkey) == 0)


def old_server(server: Server) -> Peer:
    return Peer(relay(server.port, refuse=lambda c: b"-ERR unknown command\r\n" if c[0] == b"HELLO" else None))


@pytest.mark.parametrize("resp", [2, 3])
async def test_publish_and_subscribe(valkey: Server, resp: int) -> None:
    with old_server(valkey) as old:
        connection = await connection_to(old.address if resp == 2 else valkey.address)
        replies = await connection.execute(
            [("PING",), ("SUBSCRIBE", "a", "b"), (b"psubscribe", "p*")], monotonic() + 5
        )
        assert replies == [b"PONG", [b"subscribe", b"b", 2], [b"psubscribe", b"p*", 3]]
        for number in range(50):
            valkey.cli("PUBLISH", "a", number)
        valkey.cli("PUBLISH", "pq", "x")
        assert [await connection.next_push() for _ in range(50)] == [
            [b"message", b"a", b"%d" % number] for number in range(50)
        ]
        assert await connection.next_push() == [b"pmessage", b"p*", b"pq", b"x"]
        assert await ask(connection, "PING") in (b"PONG", [b"pong", b""])
        assert await ask(connection, "UNSUBSCRIBE", "a") == [b"unsubscribe", b"a", 2]
        connection.close()


async def test_the_first_reply_is_told_while_another_command_blocks(valkey: Server) -> None:
    connection = await connection_to(valkey.address)
    told: list[Any] = []
    commands = [("ECHO", "x"), ("BLPOP", "list", 5), ("ECHO", "y")]
    asked = asyncio.create_task(connection.execute(commands, monotonic() + 9, first=told.append))
    await until(lambda: told)
    assert not asked.done()
    valkey.cli("RPUSH", "list", 1)
    assert await asked == [b"x", [b"list", b"1"], b"y"]
    # Before the others where they come at once, an error as well, and not of a single one.
    assert await connection.execute([("ECHO",), ("PING",)], monotonic() + 5, first=told.append)
    assert await connection.execute([("PING",)], monotonic() + 5, first=told.append)
    assert told[0] == b"x"
    assert isinstance(told[1], ServerError)
    assert len(told) == 2
    # It may close the connection: whoever waits for the rest is told.
    with pytest.raises(ConnectionFailed, match="closed"):
        await connection.execute(commands, monotonic() + 9, first=lambda _: connection.close())


async def test_a_call_that_was_given_up_is_told_nothing(valkey: Server) -> None:
    connection = await connection_to(valkey.address)
    channel = connection._channel
    told: list[Any] = []
    asked = asyncio.create_task(channel.request([("ECHO", "x"), ("PING",)], monotonic() + 5, first=told.append))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.cancel()
    assert await ask(connection, "ECHO", "mine") == b"mine"
    assert not told
    connection.close()


async def test_waiting_for_a_message(valkey: Server) -> None:
    connection = await connection_to(valkey.address)
    await ask(connection, "SUBSCRIBE", "a")
    # A wait that is given up loses no message.
    for number in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connection.next_push()
        valkey.cli("PUBLISH", "a", number)
        assert (await connection.next_push())[2] == b"%d" % number
    with pytest.raises(ValueError, match="name the channels"):
        await ask(connection, "UNSUBSCRIBE")
    waiting = [asyncio.create_task(connection.next_push()) for _ in range(2)]
    await asyncio.sleep(0)
    connection.close()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, ConnectionFailed)
    with pytest.raises(ConnectionFailed):
        await ask(connection, "PING")


async def test_a_subscription_that_is_not_allowed(valkey: Server) -> None:
    valkey.cli("ACL", "SETUSER", "mute", "on", ">p", "~*", "+@all", "resetchannels")
    connection = await connection_to(valkey.address, credentials=Credentials("mute", "p"))
    denied, pong = await connection.execute([("SUBSCRIBE", "a", "b"), ("PING",)], monotonic() + 5)
    assert isinstance(denied, AccessDenied)
    assert pong == b"PONG"
    connection.close()


async def test_messages_that_nobody_reads(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evercache.net.channel._MAX_MESSAGES", 20)
    connection = await connection_to(valkey.address)
    await ask(connection, "SUBSCRIBE", "a")
    await asyncio.to_thread(valkey.cli_many, [("PUBLISH", "a", "x")] * 30)
    await until(lambda: "closed" in repr(connection))
    for _ in range(20):
        await connection.next_push()
    with pytest.raises(ConnectionFailed, match="read them faster"):
        await connection.next_push()


async def test_an_own_connection_is_closed_by_an_exception(valkey: Server) -> None:
    connection = await connection_to(valkey.address)
    assert connection.greeting.role == "master"
    with pytest.raises(DeadlineExceeded):
        await ask(connection, "BLPOP", "none", 0, timeout=0.05)
    with pytest.raises(ConnectionFailed):
        await ask(connection, "PING")
    cancelled = await connection_to(valkey.address)
    task = asyncio.create_task(ask(cancelled, "BLPOP", "none", 0))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: connected(valkey) == 0)


async def test_a_blocking_read_may_outlast_others(valkey: Server) -> None:
    connection = await connection_to(valkey.address)
    read = asyncio.create_task(ask(connection, "XREAD", "BLOCK", 5000, "STREAMS", "s", "$"))
    await until(lambda: valkey.info("clients")["blocked_clients"] == "1")
    valkey.cli("XADD", "s", "1-1", "f", "v")
    assert await read == {b"s": [[b"1-1", [b"f", b"v"]]]}
    connection.close()


async def test_connect_errors(valkey: Server) -> None:
    with pytest.raises(ProtocolError, match="check the port"):
        await connection_to(valkey.address, sentinel=True)
    with pytest.raises(DeadlineExceeded):
        await PipelinedWire().connect(valkey.address, ConnectionOptions(), monotonic() - 1)
    await until(lambda: connected(valkey) == 0)
