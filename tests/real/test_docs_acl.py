"""The ACL user that the documents recommend can do everything that a cache does, and no more."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server import Server, wait_for

from evercache import Cache
from evercache.clock import monotonic
from evercache.errors import AccessDenied, ServerError
from evercache.net.blocking import BlockingWire
from evercache.net.types import ConnectionOptions, Credentials

_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def documented() -> list[str]:
    (line,) = re.findall(r"^```acl\n(.+)\n```$", _PAGE.read_text(encoding="utf-8"), re.M)
    rule: list[str] = shlex.split(line, comments=False)
    return rule[1:]


@pytest.fixture
def cache(fresh_server: Server) -> Iterator[Cache]:
    rules = documented()
    if fresh_server.info("server").get("redis_version", "").startswith("7.0"):
        rules.remove("+client|setinfo")  # as the page says
    assert fresh_server.cli("ACL", "SETUSER", *rules) == "OK"
    url = f"redis://shop:secret@{fresh_server.address}"
    with Cache(url, namespace="shop", on_error="raise", budget=2.0, hot_samples=100) as made:
        yield made


def test_the_documented_user_can_do_all_that_a_cache_does(cache: Cache, fresh_server: Server) -> None:
    @cache.cached(ttl=60, tags=("even",), near=1)
    def double(number: int) -> int:
        return 2 * number

    assert double(1) == 2
    assert double.refresh(1) == 2
    assert double.peek(1) == 2
    assert double.invalidate(1).existed
    assert double.invalidate_all()
    assert cache.set("a", "x", ttl=60, tags=("t",))
    assert cache.set("a", "y", since=cache.stamp())
    assert not cache.add("a", "z")
    assert cache.get_many(["a", "b"]) == {"a": "y", "b": None}
    assert cache.touch("a", ttl=5)
    assert cache.incr("n", 2) == 2
    assert cache.delete("a").existed
    assert cache.invalidate_tag("even")
    with cache.changing(double, tag="even") as change:
        assert change.held
        assert double(1) == 2
    assert change.done
    assert cache.clear()
    assert cache._clients is not None
    cache._clients.engine.hot.every = 0.1
    wait_for(lambda: [double(n) for n in range(9)] and fresh_server.cli("ZCARD", "shop~hot"), 20, "the sample")
    health = cache.health()
    assert health.problems == ()
    # The tail follows the log as this user, too: a line written by somebody else arrives.
    assert cache.set("b", "x")
    fresh_server.cli("FLUSHALL")
    wait_for(lambda: cache.stats().resyncs >= 2, what="the tail to notice the flush")
    assert cache.get("b") is None
    denied = [dict(zip(line[::2], line[1::2], strict=True)) for line in fresh_server.cli("ACL", "LOG")]
    assert denied == []


def test_the_documented_user_can_do_no_more(cache: Cache, fresh_server: Server) -> None:
    other = Cache(f"redis://shop:secret@{fresh_server.address}", namespace="other", on_error="raise")
    with other, pytest.raises(AccessDenied):
        other.set("k", 1)


#: What an application that was broken into would try, and no cache needs.
_MORE = (
    *(("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("SCAN", "0"), ("RANDOMKEY",), ("DBSIZE",), ("DEL", "shop:k:a")),
    *(
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("SHUTDOWN", "NOSAVE"),
        ("DEBUG", "SLEEP", "0"),
        ("SAVE",),
    ),
    *(("ACL", "LIST"), ("ACL", "WHOAMI"), ("CLIENT", "LIST"), ("CLIENT", "KILL", "TYPE", "normal"), ("MONITOR",)),
    *(
        ("REPLICAOF", "NO", "ONE"),
        ("MODULE", "LIST"),
        ("SCRIPT", "FLUSH"),
        ("FUNCTION", "LIST"),
        ("SLOWLOG", "GET"),
    ),
    *(("PUBLISH", "c", "x"), ("SUBSCRIBE", "c"), ("RENAME", "shop:k:a", "shop:k:b"), ("DUMP", "shop:k:a")),
    *(("GET", "other:k:a"), ("SET", "other:k:a", "x"), ("MGET", "shop:k:a", "other:k:a"), ("EXISTS", "shopping")),
    *(
        ("XADD", "other~log", "*", "k", "*"),
        ("XREAD", "STREAMS", "other~log", "0"),
        ("UNLINK", "shop:k:a", "other"),
    ),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("EVAL", "return redis.call('GET', 'other:k:a')", "0"),
    ("EVAL", "return redis.call('GET', KEYS[1])", "1", "other:k:a"),
    ("EVAL", "return redis.call('CONFIG', 'GET', 'requirepass')", "0"),
)


def test_anything_more_is_denied(cache: Cache, fresh_server: Server) -> None:
    assert cache.set("a", "x")
    endpoint = BlockingWire().endpoint(fresh_server.address, ConnectionOptions(Credentials("shop", "secret")))
    for command in _MORE:
        (reply,) = endpoint.execute([command], monotonic() + 5)
        absent = isinstance(reply, ServerError) and re.search(
            "unknown command|not allowed from script", str(reply), re.I
        )
        assert isinstance(reply, AccessDenied) or absent, f"{command} was answered by {reply!r}"
    endpoint.disconnect()
    assert cache.get("a") == "x"
