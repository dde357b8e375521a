"""What both wires promise, on real servers: the same tests for the blocking and the pipelined one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.real.wire_peers import Caller, Peer, answer_greeting, commands_of, relay
from tests.servers import Server, free_port, wait_for

from evercache.clock import monotonic
from evercache.errors import (
    AccessDenied,
    AuthenticationFailed,
    ConnectionFailed,
    DeadlineExceeded,
    ProtocolError,
    ServerChanged,
    ServerError,
)
from evercache.net import sockets
from evercache.net.types import Credentials, Greeting
from evercache.protocol.types import Address


@pytest.fixture(params=["blocking", "pipelined"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    one = Caller(request.param)
    yield one
    one.close()


@pytest.fixture
def own() -> Iterator[Server]:
    """A Valkey to be ill-treated."""
    with Server.start("valkey") as server:
        yield server


def clients(caller: Caller, server: Server) -> list[str]:
    return [line for line in server.cli("CLIENT", "LIST").splitlines() if f" name={caller.name}" in line]


def test_replies_of_every_type(caller: Caller, valkey: Server) -> None:
    endpoint = caller.endpoint(valkey.address)
    replies = caller.execute(
        endpoint,
        ("SET", "k", b"\x00\xff\r\n"),
        (b"GET", "k"),
        ("GET", "absent"),
        ("INCRBY", "n", 5),
        ("INCRBYFLOAT", "f", 1.5),
        ("HSET", "h", "ä", "ö"),
        ("HGETALL", "h"),
        ("LPUSH", "k", "x"),
        ("MGET", "k", "absent", "n"),
        ("ZADD", "z", 2.5, "m"),
        ("ZSCORE", "z", "m"),
    )
    wrong = replies[7]
    assert isinstance(wrong, ServerError)
    assert wrong.code == "WRONGTYPE"
    assert wrong.maybe_run is False
    assert [*replies[:7], *replies[8:]] == [
        b"OK",
        b"\x00\xff\r\n",
        None,
        5,
        b"1.5",
        1,
        {"ä".encode(): "ö".encode()},
        [b"\x00\xff\r\n", None, b"5"],
        1,
        2.5,
    ]
    assert caller.execute(endpoint) == []


def test_large_values_and_long_pipelines(caller: Caller, valkey: Server) -> None:
    endpoint = caller.endpoint(valkey.address)
    big = os.urandom(5_000_000)
    assert caller.execute(endpoint, ("SET", "big", big), ("GET", "big")) == [b"OK", big]
    many = [("ECHO", f"{number}") for number in range(20_000)]
    assert caller.execute(endpoint, *many) == [b"%d" % number for number in range(20_000)]


def test_a_bad_argument_leaves_the_connection_alone(caller: Caller, valkey: Server) -> None:
    endpoint = caller.endpoint(valkey.address)
    caller.execute(endpoint, ("PING",))
    for bad in (("SET", "k", None), ("SET", "k", ["v"])):
        with pytest.raises(TypeError):
            caller.execute(endpoint, bad)
    with pytest.raises(ValueError, match="empty command"):
        caller.execute(endpoint, ())
    assert endpoint.outstanding == 0
    assert caller.execute(endpoint, ("PING",)) == [b"PONG"]
    assert len(clients(caller, valkey)) == 1


def test_the_greeting_tells_what_the_server_is(caller: Caller, fresh_server: Server) -> None:
    seen: list[Greeting] = []
    endpoint = caller.endpoint(fresh_server.address, client_name=f"{caller.name} ä", db=3)
    before = time.time_ns() // 1000
    caller.execute(endpoint, ("SET", "k", "v"), expect=lambda greeting: not seen.append(greeting))
    (greeting,) = seen
    facts = fresh_server.info("server") | fresh_server.info("replication")
    assert greeting.run_id == facts["run_id"]
    assert greeting.replid == facts["master_replid"]
    assert greeting.role == "master"
    assert greeting.server == ("valkey" if fresh_server.kind == "valkey" else "redis")
    version = facts.get("valkey_version") or facts["redis_version"]
    assert ".".join(map(str, greeting.version)) == version
    assert before - 1000 <= greeting.time_us <= time.time_ns() // 1000 + 1000
    assert abs(greeting.received - monotonic()) < 5
    (line,) = clients(caller, fresh_server)
    assert f" name={caller.name}-- " in line
    assert " db=3 " in line
    if fresh_server.kind == "valkey":
        assert " lib-name=evercache " in line


def test_replica_role(caller: Caller, valkey: Server) -> None:
    with Server.start("valkey", replica_of=valkey) as replica:
        roles: list[str] = []
        endpoint = caller.endpoint(replica.address)
        caller.execute(endpoint, ("PING",), expect=lambda greeting: not roles.append(greeting.role))
        assert roles == ["slave"]


def test_database_out_of_range(caller: Caller, valkey: Server) -> None:
    with pytest.raises(ServerError, match="choose a lower database"):
        caller.execute(caller.endpoint(valkey.address, db=99), ("PING",))


@pytest.mark.parametrize("name", [None, "default"])
def test_passwords(caller: Caller, fresh_server: Server, name: str | None) -> None:
    secret = "pä ss:/?#[]@"
    fresh_server.cli("CONFIG", "SET", "requirepass", secret)
    right = caller.endpoint(fresh_server.address, credentials=Credentials(name, secret))
    assert caller.execute(right, ("PING",)) == [b"PONG"]
    for wrong in (Credentials(name, "hush-hush"), Credentials("nobody", "hush-hush"), Credentials()):
        endpoint = caller.endpoint(fresh_server.address, credentials=wrong)
        with pytest.raises(AuthenticationFailed, match="check the user name and the password") as caught:
            caller.execute(endpoint, ("PING",))
        assert "hush" not in f"{caught.value!r} {endpoint!r}"
        assert caught.value.maybe_run is False


def test_acl_users(caller: Caller, valkey: Server) -> None:
    valkey.cli("ACL", "SETUSER", "web", "on", ">p w:@", "~*", "+@all", "-flushall")
    valkey.cli("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info")
    web = caller.endpoint(valkey.address, credentials=Credentials("web", "p w:@"))
    assert caller.execute(web, ("ACL", "WHOAMI")) == [b"web"]
    (denied,) = caller.execute(web, ("FLUSHALL",))
    assert isinstance(denied, AccessDenied)
    blind = caller.endpoint(valkey.address, credentials=Credentials("blind", "pw"))
    with pytest.raises(AccessDenied, match=r"needs \+info"):
        caller.execute(blind, ("PING",))


def test_a_closed_port_fails_at_once(caller: Caller) -> None:
    endpoint = caller.endpoint(Address("127.0.0.1", free_port()))
    start = monotonic()
    with pytest.raises(ConnectionFailed, match="refused") as caught:
        caller.execute(endpoint, ("PING",))
    assert caught.value.maybe_run is False
    assert monotonic() - start < 2
    assert endpoint.outstanding == 0


def test_an_unknown_name(caller: Caller) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        caller.execute(caller.endpoint(Address("no-such-host.invalid")), ("PING",))
    assert caught.value.maybe_run is False


def test_a_frozen_server(caller: Caller, own: Server) -> None:
    endpoint = caller.endpoint(own.address, connect_timeout=0.1)
    caller.execute(endpoint, ("SET", "k", "old"))
    with own.frozen():
        start = monotonic()
        with pytest.raises(DeadlineExceeded) as late:
            caller.execute(endpoint, ("SET", "k", "new"), timeout=0.2)  # long enough to tell that it is silent
        assert late.value.maybe_run is True
        with pytest.raises(ConnectionFailed, match="connect_timeout") as never:
            caller.execute(endpoint, ("GET", "k"), timeout=3)
        assert never.value.maybe_run is False
        with pytest.raises(DeadlineExceeded) as short:
            caller.execute(endpoint, ("GET", "k"), timeout=0.05)
        assert short.value.maybe_run is False
        assert monotonic() - start < 2
    wait_for(lambda: own.cli("PING"))
    # The reply to the late SET belongs to nobody; the next call gets its own.
    assert caller.execute(endpoint, ("ECHO", "mine")) == [b"mine"]


def test_a_dripping_peer_does_not_stretch_the_deadline(caller: Caller) -> None:
    def drip(connection: socket.socket) -> None:
        for command in commands_of(connection):
            if not answer_greeting(connection, command):
                for byte in b"$100\r\n" + b"x" * 100:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)

    with Peer(drip) as peer:
        endpoint = caller.endpoint(peer.address)
        start = monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            caller.execute(endpoint, ("GET", "k"), timeout=0.2)
        assert 0.15 < monotonic() - start < 1.5
        assert caught.value.maybe_run is True
        caller.close()


def test_a_deadline_in_the_past_touches_nothing(caller: Caller, valkey: Server) -> None:
    endpoint = caller.endpoint(valkey.address)
    with pytest.raises(DeadlineExceeded):
        caller.execute(endpoint, ("SET", "k", 1), timeout=-1)
    assert not clients(caller, valkey)
    caller.execute(endpoint, ("PING",))
    (line,) = clients(caller, valkey)
    with pytest.raises(DeadlineExceeded) as caught:
        caller.execute(endpoint, ("SET", "k", 1), timeout=-1)
    assert caught.value.maybe_run is False
    assert valkey.cli("EXISTS", "k") == 0
    assert clients(caller, valkey)[0].split()[0] == line.split()[0]


def test_a_restart_is_not_noticed(caller: Caller, own: Server) -> None:
    endpoint = caller.endpoint(own.address)
    for _ in range(3):
        caller.execute(endpoint, ("PING",))
        own.restart()
        assert caller.execute(endpoint, ("ECHO", "again")) == [b"again"]


def test_connections_that_the_server_closed_are_replaced(caller: Caller, valkey: Server) -> None:
    endpoint = caller.endpoint(valkey.address)
    for _ in range(5):
        caller.execute(endpoint, ("PING",))
        valkey.cli("CLIENT", "KILL", "TYPE", "normal")
        assert caller.execute(endpoint, ("INCR", "n")) is not None
    assert valkey.cli("GET", "n") == "5"


def test_nothing_is_sent_twice(caller: Caller) -> None:
    asked: list[list[bytes]] = []

    def hang_up(connection: socket.socket) -> None:
        for command in commands_of(connection):
            if not answer_greeting(connection, command):
                asked.append(command)
                return

    with Peer(hang_up) as peer:
        endpoint = caller.endpoint(peer.address)
        with pytest.raises(ConnectionFailed, match="closed") as caught:
            caller.execute(endpoint, ("INCR", "n"))
        assert caught.value.maybe_run is True
        assert asked == [[b"INCR", b"n"]]
        assert peer.accepted == 1


@pytest.mark.parametrize(
    "junk",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        *(b"+OK\r\n" + more for more in (b"+OK\r\n", b"+O", b"*1\r\n", b">1\r\n+x\r\n%1\r\n", b"*4000000000\r\n")),
    ],
)
def test_what_is_no_reply(caller: Caller, junk: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        for command in commands_of(connection):
            if not answer_greeting(connection, command):
                connection.sendall(junk)

    with Peer(talk) as peer:
        endpoint = caller.endpoint(peer.address)
        if junk.startswith(b"HTTP"):
            with pytest.raises(ProtocolError, match="check the port"):
                caller.execute(endpoint, ("PING",))
        elif caller.kind == "blocking":
            with pytest.raises(ProtocolError, match=r"more replies|announces more"):
                caller.execute(endpoint, ("PING",))
        else:  # the surplus is noticed when it comes, which may be after the reply
            caller.execute(endpoint, ("PING",))
            caller.settle()
        accepted = peer.accepted
        caller.close()
        assert accepted == 1


def test_an_expectation_that_fails(caller: Caller, own: Server) -> None:
    endpoint = caller.endpoint(own.address)
    run_ids: list[str] = []
    caller.execute(endpoint, ("PING",), expect=lambda greeting: not run_ids.append(greeting.run_id))
    # Not met by the open connection, met by a fresh one: unnoticed.
    seen: list[float] = []

    def fresh_only(greeting: Greeting) -> bool:
        seen.append(greeting.received)
        return len(seen) > 1

    assert caller.execute(endpoint, ("ECHO", "a"), expect=fresh_only) == [b"a"]
    assert len(set(seen)) == 2
    # Not met by a fresh one either.
    own.restart()
    with pytest.raises(ServerChanged) as caught:
        caller.execute(endpoint, ("SET", "k", 1), expect=lambda greeting: greeting.run_id == run_ids[0])
    assert caught.value.maybe_run is False
    assert own.cli("EXISTS", "k") == 0
    caller.settle()
    wait_for(lambda: not clients(caller, own))


def test_disconnect(caller: Caller, valkey: Server) -> None:
    endpoint = caller.endpoint(valkey.address)
    caller.execute(endpoint, ("PING",))
    assert len(clients(caller, valkey)) == 1
    endpoint.disconnect()
    caller.settle()
    wait_for(lambda: not clients(caller, valkey))
    assert caller.execute(endpoint, ("PING",)) == [b"PONG"]


def test_a_fork(caller: Caller, valkey: Server) -> None:
    endpoint = caller.endpoint(valkey.address)
    caller.execute(endpoint, ("PING",))
    (line,) = clients(caller, valkey)
    child = os.fork()
    if child == 0:
        # Only what the child does is looked at: it leaves without pytest's or the loop's farewell.
        code = 1
        try:
            endpoint.forget()
            other = Caller(caller.kind)
            if other.execute(endpoint, ("SET", "k", "child")) == [b"OK"]:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert caller.execute(endpoint, ("GET", "k")) == [b"child"]
    assert line.split()[0] in {client.split()[0] for client in clients(caller, valkey)}


def test_unix_socket(caller: Caller) -> None:
    with Server.start("valkey") as server:
        path = str(server.dir / "s")
        server.stop()
        with (server.dir / "server.conf").open("a") as config:
            config.write(f'unixsocket "{path}"\n')
        server.restart()
        endpoint = caller.endpoint(Address("", 0, path=path))
        assert caller.execute(endpoint, ("PING",)) == [b"PONG"]
        assert path in repr(endpoint)
        server.stop()
        with pytest.raises(ConnectionFailed):
            caller.execute(endpoint, ("PING",))


def test_every_address_record_is_tried(caller: Caller, valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def two_records(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "two.example":
            return real(host, port, *args, **kwargs)
        if kwargs.get("flags"):
            raise socket.gaierror
        found = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*found, ("127.0.0.1", dead)), (*found, ("127.0.0.1", valkey.port))]

    dead = free_port()
    monkeypatch.setattr(socket, "getaddrinfo", two_records)
    endpoint = caller.endpoint(Address("two.example", valkey.port))
    assert caller.execute(endpoint, ("PING",)) == [b"PONG"]


def test_ipv6(caller: Caller, valkey: Server) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with Server.start("valkey", options={"bind": "127.0.0.1 ::1"}) as server:
        endpoint = caller.endpoint(Address("::1", server.port))
        assert caller.execute(endpoint, ("PING",)) == [b"PONG"]
        assert repr(endpoint).startswith(f"<Endpoint [::1]:{server.port} ")


@pytest.mark.parametrize("refusal", [b"-ERR unknown command `HELLO`, hush\r\n", b"-NOPROTO no\r\n"])
@pytest.mark.parametrize("password", [None, "hush"])
def test_servers_without_hello(caller: Caller, refusal: bytes, password: str | None) -> None:
    def refuse(command: list[bytes]) -> bytes | None:
        return refusal if command[0] == b"HELLO" else None

    with Server.start("redis6", password=password) as server, Peer(relay(server.port, refuse=refuse)) as peer:
        endpoint = caller.endpoint(peer.address, credentials=Credentials(None, password))
        commands = (("HSET", "h", "f", "v"), ("HGETALL", "h"), ("GET", "none"))
        assert caller.execute(endpoint, *commands) == [1, [b"f", b"v"], None]
        assert len(clients(caller, server)) == 1
        if password:
            wrong = caller.endpoint(peer.address, credentials=Credentials(None, "hush2"))
            with pytest.raises(AuthenticationFailed) as caught:
                caller.execute(wrong, ("PING",))
            assert "hush" not in repr(caught.value)
        caller.close()


def test_sentinel_and_node_are_told_apart(caller: Caller, valkey: Server, server_kind: str) -> None:
    config = f"sentinel monitor m 127.0.0.1 {valkey.port} 1\n"
    with Server.start(server_kind, sentinel_config=config) as sentinel:
        roles: list[Greeting] = []
        endpoint = caller.endpoint(sentinel.address, sentinel=True, db=3)
        (state,) = caller.execute(
            endpoint, ("SENTINEL", "MASTER", "m"), expect=lambda greeting: not roles.append(greeting)
        )
        assert state[b"ip" if isinstance(state, dict) else 2] is not None
        assert (roles[0].role, roles[0].replid, roles[0].time_us) == ("sentinel", "", 0)
        assert len(roles[0].run_id) == 40
        with pytest.raises(ProtocolError, match="use a sentinel://"):
            caller.execute(caller.endpoint(sentinel.address), ("PING",))
    with pytest.raises(ProtocolError, match="check the port"):
        caller.execute(caller.endpoint(valkey.address, sentinel=True), ("PING",))


def test_options_that_cannot_work(caller: Caller) -> None:
    for bad in ({"max_connections": 0}, {"connect_timeout": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            caller.endpoint(Address("h"), **bad)


def test_keepalive_and_no_delay(caller: Caller, valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    real = sockets.new_socket

    def remember(family: int) -> socket.socket:
        made.append(real(family))
        return made[-1]

    for module in ("connection", "pipelined"):
        monkeypatch.setattr(f"evercache.net.{module}.new_socket", remember)
    caller.execute(caller.endpoint(valkey.address), ("PING",))
    (sock,) = made
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
