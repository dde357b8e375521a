"""Error replies of real servers of each kind, from commands and from inside scripts."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from tests.servers import Server, wait_for

from evercache.clock import monotonic
from evercache.errors import (
    AccessDenied,
    AuthenticationFailed,
    Loading,
    NoScript,
    OutOfMemory,
    ReadOnly,
    ServerError,
)
from evercache.net.blocking import BlockingEndpoint, BlockingWire
from evercache.net.types import ConnectionOptions, Credentials

SET = "return redis.call('SET', KEYS[1], 'v')"
UNLINK = "return redis.call('UNLINK', KEYS[1])"


def endpoint_of(server: Server, *login: str) -> BlockingEndpoint:
    return BlockingWire().endpoint(server.address, ConnectionOptions(Credentials(*login), connect_timeout=2))


def ask(endpoint: BlockingEndpoint, *command: Any) -> Any:
    return endpoint.execute([command], monotonic() + 5)[0]


def expect_all(endpoint: BlockingEndpoint, kind: type[ServerError], code: str, *scripts: str) -> None:
    """The command itself, and each script, with `call` and with `pcall`."""
    replies = [ask(endpoint, "SET", "k", "v")]
    for script in scripts:
        replies.append(ask(endpoint, "EVAL", script, 1, "k"))
        replies.append(ask(endpoint, "EVAL", script.replace(".call", ".pcall"), 1, "k"))
    for reply in replies:
        assert type(reply) is kind, repr(reply)
        assert reply.code == code
        assert reply.maybe_run is False


def test_read_only_replica_and_lost_master(fresh_server: Server) -> None:
    settings = {"replica-serve-stale-data": "no"}
    with Server.start(fresh_server.kind, replica_of=fresh_server, options=settings) as replica:
        wait_for(lambda: replica.info("replication")["master_link_status"] == "up")
        endpoint = endpoint_of(replica)
        expect_all(endpoint, ReadOnly, "READONLY", UNLINK, SET)
        fresh_server.kill()
        wait_for(lambda: replica.info("replication")["master_link_status"] == "down")
        for command in (("GET", "k"), ("EVAL", "return redis.call('GET', KEYS[1])", 1, "k")):
            assert type(ask(endpoint, *command)) is Loading
        endpoint.disconnect()


def test_no_memory_no_replicas_no_script(fresh_server: Server) -> None:
    endpoint = endpoint_of(fresh_server)
    fresh_server.cli("CONFIG", "SET", "maxmemory", "1")
    expect_all(endpoint, OutOfMemory, "OOM", SET)
    fresh_server.cli("CONFIG", "SET", "maxmemory", "0")
    fresh_server.cli("CONFIG", "SET", "min-replicas-to-write", "3")
    expect_all(endpoint, OutOfMemory, "NOREPLICAS", SET, UNLINK)
    assert type(ask(endpoint, "EVALSHA", "0" * 40, 0)) is NoScript
    endpoint.disconnect()


def test_access_denied_and_logged_out(fresh_server: Server) -> None:
    fresh_server.cli("ACL", "SETUSER", "bob", "on", ">p", "~mine*", "+@all", "-set")
    endpoint = endpoint_of(fresh_server, "bob", "p")
    for command in (
        ("SET", "mine", 1),
        ("GET", "other"),
        ("EVAL", SET, 1, "mine"),
        ("EVAL", "return redis.pcall('SET', KEYS[1], 1)", 1, "mine"),
        ("EVAL", "return redis.call('GET', 'other')", 0),
    ):
        reply = ask(endpoint, *command)
        assert type(reply) is AccessDenied, repr(reply)
        assert reply.code == "NOPERM"
    for wrong in (("AUTH", "bob", "x"), ("AUTH", "x")):
        assert type(ask(endpoint, *wrong)) is AuthenticationFailed
    plain = ask(endpoint, "NOSUCH")
    assert (type(plain), plain.code) == (ServerError, "ERR")
    endpoint.disconnect()


def test_a_busy_server(fresh_server: Server) -> None:
    fresh_server.cli("CONFIG", "SET", "lua-time-limit", "20")
    busy, endpoint = endpoint_of(fresh_server), endpoint_of(fresh_server)
    ask(endpoint, "PING")
    with pytest.raises(TimeoutError):
        fresh_server.cli("EVAL", "while true do end", 0, timeout=0.1)
    assert type(wait_for(lambda: ask(endpoint, "GET", "k"))) is Loading
    with pytest.raises(Loading):  # as the greeting of a new connection says
        ask(busy, "GET", "k")
    ask(endpoint, "SCRIPT", "KILL")

    def free() -> bool:  # the script ends some moments after the answer to its killer
        with contextlib.suppress(Loading):
            return bool(ask(busy, "PING") == b"PONG")
        return False

    wait_for(free)
    busy.disconnect()
    endpoint.disconnect()
