"""Two versions of the library in one namespace: records "from the future" do no harm, and are not harmed."""

from __future__ import annotations

import hashlib
import time
from types import MappingProxyType
from typing import Any

import pytest
from msgspec.structs import replace
from tests.real.trouble_tools import Site, heard, reading, warm
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.protocol import commands, scripts
from evercache.protocol.scope import tag_hash

HOUR_MS = 3_600_000


def of_the_future(today: bytes, *, soft_in_ms: int = HOUR_MS, span_ms: int = HOUR_MS) -> bytes:
    """An envelope of version 2: magic, version, stamp, soft expiry and span stay, the rest is another thing."""
    soft = int(time.time() * 1000) + soft_in_ms
    fixed = today[:2] + b"\x02\xff" + today[4:12] + soft.to_bytes(6, "big") + span_ms.to_bytes(4, "big")
    return fixed + b"what only the future can read, and longer than a header of today"


@pytest.mark.parametrize("tasks", [False, True], ids=["thread", "task"])
async def test_a_fresh_envelope_of_the_future_is_neither_served_nor_overwritten(
    valkey: Server, tasks: bool
) -> None:
    site = Site()
    async with Cache(valkey.url) as cache:
        page, apage = site.on(cache), site.aon(cache)
        assert page(1) == 0
        key = page.key(1)
        future = of_the_future(valkey.cli("GET", key, decode=False))
        valkey.cli("SET", key, future, "PX", HOUR_MS)
        version = site.change()
        runs = site.runs
        for _ in range(3):
            assert (await apage(1) if tasks else page(1)) == version, "computed, as nobody here can read it"
        assert site.runs == runs + 3
        assert valkey.cli("GET", key, decode=False) == future
        assert cache.stats().counters.newer >= 3
        assert cache.stats().counters.corrupt == 0
        assert (await apage.apeek(1, default="none") if tasks else page.peek(1, default="none")) == "none"
        assert "miss" in str(page.explain(1).verdict)
        # An early refresh or a refresh asked for does not replace it either.
        assert (await apage.arefresh(1) if tasks else page.refresh(1)) == version
        assert valkey.cli("GET", key, decode=False) == future
        # Who names the key means it.
        ack = await apage.ainvalidate(1) if tasks else page.invalidate(1)
        assert ack
        assert ack.existed
        assert page(1) == version
        assert site.runs == runs + 5
        assert page(1) == version
        assert site.runs == runs + 5, "ours again"


@pytest.mark.parametrize("how", ["expired", "key", "function", "tag", "everything"])
def test_a_dead_envelope_of_the_future_is_replaced(valkey: Server, how: str) -> None:
    site = Site()
    with Cache(valkey.url) as cache:
        page = site.on(cache)
        assert page(1) == 0
        key = page.key(1)
        today = valkey.cli("GET", key, decode=False)
        dead = of_the_future(today, soft_in_ms=-2 * HOUR_MS) if how == "expired" else of_the_future(today)
        valkey.cli("SET", key, dead, "PX", HOUR_MS)
        assert {
            "expired": lambda: True,
            "key": lambda: page.invalidate(1),
            "function": page.invalidate_all,
            "tag": lambda: cache.invalidate_tag("page:1"),
            "everything": cache.clear,
        }[how]()
        version = site.change()
        runs = site.runs
        assert page(1) == page(1) == version
        assert site.runs == runs + 1, "stored"
        assert valkey.cli("GET", key, decode=False)[2] == 1, "by this version"


def test_named_keys_of_the_future(valkey: Server) -> None:
    with Cache(valkey.url) as cache:
        assert cache.set("k", "v")
        (key,) = valkey.cli("KEYS", "evercache:*")
        future = of_the_future(valkey.cli("GET", key, decode=False))
        valkey.cli("SET", key, future, "PX", HOUR_MS)
        assert cache.get("k", "default") == "default"
        assert cache.get_many(["k", "other"]) == {"k": None, "other": None}
        assert cache.add("k", "mine").existed
        assert cache.touch("k", ttl=5) is False
        assert cache.get_or_compute("k", lambda: "computed") == "computed"
        assert valkey.cli("GET", key, decode=False) == future
        assert cache.set("k", "mine")
        assert cache.get("k") == "mine"


def test_envelopes_of_the_future_on_replicas() -> None:
    """A replica's answer is judged as the master's."""
    site = Site()
    with Deployment.start(replicas=1, sentinels=1) as deployment, Cache(deployment.url) as cache:
        page = site.on(cache)
        assert page(1) == 0
        wait_for(lambda: page(1) == 0 and cache.stats().counters.replica_hits > 0, 5, "a hit at the replica")
        master, key = deployment.master(), page.key(1)
        future = of_the_future(master.cli("GET", key, decode=False))
        master.cli("SET", key, future, "PX", HOUR_MS)
        version = site.change()
        wait_for(lambda: page(1) == version, 2, "the envelope to arrive")
        for _ in range(10):
            assert page(1) == version
        assert master.cli("GET", key, decode=False) == future


# -- the log

#: What a later version's script might do: a line with another kind, or more fields, and its mark.
FUTURE_LINE = """
local state, log, marks = KEYS[1], KEYS[2], KEYS[3]
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local time = redis.call('TIME')
local m = math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]),
  tonumber(redis.call('HGET', state, 'tip') or 0) + 1)
local stamp = string.format('%.0f', m)
local fields = {'i', ARGV[1], 'g', replid, 'p', redis.call('HGET', state, 'last') or '0-0'}
for i = 2, #ARGV do fields[#fields + 1] = ARGV[i] == '@stamp' and stamp or ARGV[i] end
local id = redis.call('XADD', log, '*', unpack(fields))
redis.call('HSET', state, 'tip', stamp, 'last', id, 'later', 'field')
redis.call('ZADD', marks, stamp, 'glob:shop:*')
return stamp
"""


def future_line(server: Server, *fields: str) -> int:
    names = [f"evercache~{name}" for name in ("state", "log", "marks")]
    id = hashlib.sha1(" ".join(fields).encode()).hexdigest()[:16]
    return int(server.cli("EVAL", FUTURE_LINE, 3, *names, id, *fields))


KINDS: dict[str, tuple[str, ...]] = {
    "an unknown kind": ("v", "1", "k", "glob", "n", "site.*", "s", "@stamp"),
    "a higher version": ("v", "2", "k", "k", "n", "hashed in another way", "s", "@stamp"),
    "extra fields": ("v", "1", "k", "t", "n", tag_hash("page:1").hex(), "s", "@stamp", "why", "an edit"),
    "a tag of another form": ("v", "1", "k", "t", "n", "sha256:abc", "s", "@stamp"),
    "no kind": ("v", "3", "s", "@stamp"),
}


@pytest.mark.parametrize("tasks", [False, True], ids=["thread", "task"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_line_of_the_future_outdates_and_the_tail_goes_on(valkey: Server, kind: str, tasks: bool) -> None:
    site = Site()
    with Cache(valkey.url) as one, Cache(valkey.url) as two:
        page = site.on(one, near=60)
        other = site.aon(two, near=60) if tasks else site.on(two, near=60)
        wait_for(page.invalidate_all, 5, "the bookkeeping to be there")
        assert page(1) == 0
        with reading(other, 1) as answers:
            wait_for(lambda: two.stats().counters.near_hits > 3, 2, "near to be in use")
            resyncs = one.stats().resyncs, two.stats().resyncs
            version = site.change()
            stamp = future_line(valkey, *KINDS[kind])
            acknowledged = [(time.monotonic(), version)]
            wait_for(lambda: answers.all[-1][2] == version, 1, "the other process to obey")
            wait_for(lambda: page(1) == version, 1, "this one to obey")
            # An invalidation of today behind it.
            version = site.change()
            ack = page.invalidate(1)
            assert ack
            assert (ack.stamp or 0) > stamp
            acknowledged.append((time.monotonic(), version))
            assert page(1) == version
            wait_for(lambda: answers.all[-1][2] == version, 1, "the other process to hear")
        assert answers.errors == []
        assert answers.stale(acknowledged) == []
        assert (one.stats().resyncs, two.stats().resyncs) == resyncs, "the tail went on"
        assert valkey.cli("HGET", "evercache~state", "later") == "field", "what is not known is left alone"
        # One that comes now reads the marks: a member of an unknown kind covers everything.
        with Cache(valkey.url) as three:
            assert site.on(three)(1) == version
            assert three.health().ok, three.health().problems


def test_a_line_that_cannot_be_read(valkey: Server) -> None:
    """No stamp at all: nothing less than a resync is safe, and the tail goes on behind it."""
    site = Site()
    with Cache(valkey.url) as one, Cache(valkey.url) as two:
        page, other = site.on(one), site.on(two, near=60)
        assert page.invalidate_all()
        assert page(1) == other(1) == 0
        resyncs = two.stats().resyncs
        future_line(valkey, "v", "7", "k", "glob")
        wait_for(lambda: two.stats().resyncs > resyncs, 2, "the resync")
        version = site.change()
        assert page.invalidate(1)
        wait_for(lambda: other(1) == version, 1, "the other process to hear")
        assert two.stats().resyncs <= resyncs + 2
        wait_for(lambda: two.health().ok, 1, "all to be well")


@pytest.mark.parametrize("kind", ["an unknown kind", "a higher version"])
def test_a_line_of_the_future_that_was_lost_is_issued_again_as_everything(kind: str) -> None:
    """This version cannot say what the line said, so it invalidates more than that; it must not get stuck."""
    site = Site()
    with Server.start("valkey") as server, Cache(server.url) as cache:
        page = site.on(cache)
        assert page.invalidate_all()
        assert page(1) == 0
        server.cli("SAVE")
        resyncs = cache.stats().resyncs
        version = site.change()
        future_line(server, *KINDS[kind])
        wait_for(lambda: page(1) == version, 1, "the line to be heard")
        server.kill()
        server.restart()
        wait_for(lambda: cache.stats().resyncs > resyncs, 5, "the resync")
        heard(cache)
        assert page(1) == version
        runs = site.runs
        assert page(1) == version
        assert site.runs == runs, "and entries are cached again"
        with Cache(server.url) as late:
            assert site.on(late)(1) == version


# -- state and replies


def test_unknown_fields_of_the_state_stay(valkey: Server) -> None:
    site = Site()
    with Cache(valkey.url) as one:
        assert site.on(one).invalidate_all()
        valkey.cli("HSET", "evercache~state", "epoch2", "x:1,y:2", "shards", "\x00\x01")
        with Cache(valkey.url) as two:
            page = site.on(two)
            version = site.change()
            assert page.invalidate(1)
            assert page.invalidate_all()
            assert two.clear()
            assert page(1) == version
        assert valkey.cli("HMGET", "evercache~state", "epoch2", "shards") == ["x:1,y:2", "\x00\x01"]


def more_in_every_reply(text: str) -> str:
    """A script whose replies have elements at their end that nobody here knows."""
    return f"""
local function today()
{text}
end
local reply = today()
if type(reply) == 'table' and not reply.err then
  reply[#reply + 1] = 'later'
  reply[#reply + 1] = {{'a', 'list'}}
end
return reply
"""


def test_replies_and_arguments_of_the_future(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extra elements in every reply, extra arguments in every call: all operations still work."""
    later = {}
    for name, script in scripts.SCRIPTS.items():
        text = more_in_every_reply(script.text)
        later[name] = scripts.Script(name, text, hashlib.sha1(text.encode()).hexdigest())
    monkeypatch.setattr(commands, "SCRIPTS", MappingProxyType(later))
    plain = commands.Commands._call

    def with_more(self: commands.Commands, *positional: Any, **named: Any) -> commands.ScriptCall:
        call = plain(self, *positional, **named)
        return replace(call, args=(*call.args, "of the future", 7))

    monkeypatch.setattr(commands.Commands, "_call", with_more)
    site = Site()
    with Cache(valkey.url) as one:
        warm(one)
        page = site.on(one)
        assert page(1) == page(1) == 0
        assert site.runs == 1
        version = site.change()
        assert page.invalidate(1)
        assert page(1) == version
        assert page.invalidate_all()
        assert one.invalidate_tag("x")
        assert one.clear()
        assert one.set("k", "v")
        assert one.get("k") == "v"
        assert one.touch("k")
        assert one.add("k", 1).existed
        assert one.incr("n") == 1
        assert one.incr("n", 2) == 3
        assert one.delete("k").existed
        assert one.stamp()
        assert page.refresh(1) == version
        monkeypatch.undo()
        with Cache(valkey.url) as two:  # and this version beside it
            runs = site.runs
            assert site.on(two)(1) == version
            assert site.runs == runs
            assert two.get("n") == 3


@pytest.mark.parametrize("how", ["call", "refresh", "batch", "refresh of a batch"])
def test_a_damaged_entry_is_replaced(valkey: Server, how: str) -> None:
    """Its header is well, so the server takes it for fresh; what follows cannot be read."""
    runs: list[int] = []
    with Cache(valkey.url) as cache:

        @cache.cached(name="page", ttl=3600)
        def page(number: int) -> str:
            runs.append(number)
            return f"page {number}"

        @cache.cached_many(name="page", ttl=3600)
        def pages(numbers: list[int]) -> dict[int, str]:
            runs.extend(numbers)
            return {number: f"page {number}" for number in numbers}

        page(1)
        key = page.key(1)
        entry = valkey.cli("GET", key, decode=False)
        valkey.cli("SET", key, entry[:-1] + bytes([entry[-1] ^ 1]), "PX", HOUR_MS)
        match how:
            case "call":
                assert page(1) == "page 1"
            case "refresh":
                assert page.refresh(1) == "page 1"
            case "batch":
                assert pages([1]) == {1: "page 1"}
            case _:
                assert pages.refresh([1]) == {1: "page 1"}
        assert runs == [1, 1]
        assert cache.stats().counters.corrupt >= 1
        assert page(1) == "page 1"
        assert pages([1]) == {1: "page 1"}
        assert runs == [1, 1], "it was stored"
