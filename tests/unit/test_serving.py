"""The hot path serves what the long way serves, on the same bytes and the same knowledge, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.steps import interrupted

from evercache import Cache, modes, testing
from evercache.client.request import Plan, Request, Usual
from evercache.client.serving import Serving, Unserved
from evercache.client.values import value_of
from evercache.clients import Clients
from evercache.codecs import Encoder, StrictCodec, TypeRegistry
from evercache.connect import memory_engine
from evercache.errors import CorruptEnvelope
from evercache.net.memory import MemoryServer
from evercache.observe import Counters
from evercache.protocol.envelope import COMPRESSED, COUNTER, ERROR, TAGGED, pack, unpack
from evercache.protocol.freshness import Marks
from evercache.protocol.replies import KnownMarks, LeaseReply
from evercache.protocol.scope import Scope, Subject, tag_hash
from evercache.url import parse_url

NOW = 1000.0
SERVER_MS = 1_700_000_000_000
TAGS = [tag_hash(name) for name in ("a", "b", "c")]
VALUES: list[Any] = [None, 0, "x", [1, (2,)], {"a": [1.5, True]}, "\ud800", b"b", 10**30]


def clients() -> Clients:
    """An engine whose clock stands still."""
    server = MemoryServer(lambda: SERVER_MS * 1000, "0" * 40)
    settings = replace(Cache("memory://").settings, hedge=0.0)
    engine = memory_engine(parse_url("memory://"), settings, server, lambda: NOW)
    engine.state.clock.observe(SERVER_MS * 1000, NOW, NOW)
    return Clients(engine)


@dataclass(frozen=True)
class Case:
    """An entry as a node gave it, and what this process knows."""

    value: Any
    stamp: int
    left_ms: int
    span_ms: int
    own_tags: list[bytes]
    call_tags: list[bytes]
    marks: dict[str, int]
    flags: int
    damage: tuple[int, int] | None
    cut: int | None
    codec: int
    source: str
    resynced: bool
    pending: bool
    blind: bool
    compressed: bool
    obeyed: int


stamps = st.integers(0, 12)
names = (
    "everything",
    "tag_floor",
    "key_floor",
    "horizon",
    "function",
    "key",
    "newest",
    *(tag.hex() for tag in TAGS),
)
cases = st.builds(
    Case,
    st.sampled_from(VALUES),
    stamps,
    st.sampled_from([-5000, -1, 0, 1, 1000, 1000, 1000]),
    st.sampled_from([0, 1, 5000]),
    st.lists(st.sampled_from(TAGS), max_size=2, unique=True),
    st.lists(st.sampled_from(TAGS), max_size=2, unique=True),
    st.dictionaries(st.sampled_from(names), stamps, max_size=3),
    st.sampled_from([0, 0, 0, 0, 0, 0, 8, 32, TAGGED, COMPRESSED, COUNTER, ERROR]),
    st.none() | st.none() | st.tuples(st.integers(0, 60), st.integers(1, 255)),
    st.none() | st.none() | st.integers(0, 60),
    st.sampled_from([1, 1, 1, 1, 2, 3, 77]),
    st.sampled_from(["master", "replica"]),
    st.just(False) | st.booleans(),
    st.just(False) | st.booleans(),
    st.just(False) | st.booleans(),
    st.booleans(),
    stamps,
)


def data_of(case: Case) -> bytes:
    payload = StrictCodec().encode(case.value, TypeRegistry())
    compressed = Encoder().compression.compress(payload * 1 + b"") if case.compressed else None
    data = bytearray(
        pack(
            payload=compressed or payload,
            codec=case.codec,
            stamp=case.stamp,
            soft_ms=SERVER_MS + case.left_ms,
            span_ms=case.span_ms,
            tags=tuple(case.own_tags),
            compressed=compressed is not None,
        )
    )
    data[3] ^= case.flags
    if case.damage is not None and case.damage[0] < len(data):
        data[case.damage[0]] ^= case.damage[1]
    return bytes(data if case.cut is None else data[: case.cut])


def knows(both: Clients, case: Case) -> None:
    state, marks = both.engine.state, both.engine.state.marks
    marks.newest = 10
    for name, stamp in case.marks.items():
        match name:
            case "everything" | "tag_floor" | "key_floor" | "horizon" | "newest":
                setattr(marks, name, stamp)
            case "function":
                marks.functions["f"] = stamp
            case "key":
                marks.keys["k"] = (stamp, NOW)
            case _:
                marks.tags[bytes.fromhex(name)] = stamp
    marks.newest = max(marks.newest, *(stamp for name, stamp in case.marks.items() if name != "newest"), 0)
    if case.pending:
        state.begin(Scope.of_key("another"))
    if case.blind:
        state.local = False
        state.covers = NOW - state.settings.max_staleness - 0.001


@given(cases)
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_served_is_what_the_long_way_serves(case: Case) -> None:
    both = clients()
    knows(both, case)
    state, counters, encoder = both.engine.state, Counters(), Encoder()
    subject = Subject("k", "f", tuple(case.call_tags))
    plan = Plan("f", encoder, counters, 0.0, 0.1, 0.0)
    data, resyncs = data_of(case), state.resyncs - case.resynced
    need, obeyed = state.marks.need(subject), case.obeyed
    served = Serving(both.engine).value(plan, "k", subject.tags, data, case.source, resyncs, NOW, NOW, obeyed)
    found = both.sync.reads.judge(data, subject, need, resyncs, obeyed, case.source, Counters())
    expected: Any = Unserved
    if found is not None and not found.stale and not found.envelope.error:
        policy = Cache("memory://")._policy()
        request = Request(subject, policy, encoder, Counters(), Usual(), lambda: None)
        try:
            expected = value_of(request, found.envelope)
        except CorruptEnvelope:
            expected = Unserved
    if type(served) is Unserved:
        assert served.data is data
        assert served.obeyed == obeyed
        assert expected is Unserved or case.pending or case.blind or case.flags & ~6
        assert counters.hits == 0
    else:
        assert not case.pending
        assert not case.blind
        assert type(served) is type(expected)
        assert served == expected
        assert (counters.master_hits, counters.replica_hits) == (case.source == "master", case.source != "master")


@pytest.mark.parametrize(
    ("scope", "change"),
    [
        (Scope.of_key("k"), lambda marks: marks.hear(Scope.of_key("k"), 5, NOW)),
        (Scope.of_key("k"), lambda marks: marks.hear(Scope.of_key("other"), 20, NOW)),
        (Scope.of_key("k"), lambda marks: marks.expire_keys(NOW + 100, 1.0)),
        (Scope.of_function("f"), lambda marks: marks.hear(Scope.of_function("other"), 20, NOW)),
        (Scope("t", TAGS[0].hex()), lambda marks: marks.hear(Scope("t", TAGS[1].hex()), 20, NOW)),
    ],
)
def test_rule_7_a_mark_is_not_missed_by_a_hit_that_is_interrupted(
    scope: Scope, change: Callable[[Marks], None]
) -> None:
    data = pack(payload=StrictCodec().encode(1, TypeRegistry()), codec=1, stamp=9, soft_ms=SERVER_MS + 1000)
    plan = Plan("f", Encoder(), Counters(), 0.0, 0.1, 0.0)

    def make() -> tuple[Callable[[], Any], Callable[[], None]]:
        both = clients()
        marks = both.engine.state.marks = Marks(limit=1)
        marks.hear(scope, 10, NOW)
        serving = Serving(both.engine)
        return lambda: serving.value(plan, "k", (TAGS[0],), data, "replica", 0, NOW, NOW, 0), lambda: change(marks)

    assert {type(served) for served in interrupted(make)} == {Unserved}


@pytest.mark.parametrize(("tip", "stamp"), [(10, 9), (11, 9), (9, 10), (9, 9)])
def test_rule_7_what_the_master_answered_before_a_mark_that_was_forgotten_is_not_served(
    tip: int, stamp: int
) -> None:
    """The key mark of stamp 10 came after the answer if the master's tip was 9. It is forgotten by now."""
    both, request = (
        clients(),
        Request(Subject("k", "f"), Cache("memory://")._policy(), Encoder(), Counters(), Usual(), lambda: None),
    )
    marks = both.engine.state.marks
    marks.newest, marks.horizon = 20, 10
    entry = pack(payload=b"x", codec=1, stamp=stamp, soft_ms=SERVER_MS + 1000, span_ms=1000)
    reply = LeaseReply("entry", SERVER_MS * 1000, "", KnownMarks(tip=tip), entry=entry)
    good = tip >= 10 or stamp >= 10
    found = both.sync.reads.from_master(reply, request.subject, both.engine.state.resyncs, Counters())
    assert (found is not None) is good
    answer = both.sync.leads._weigh(request, reply)
    assert (answer.verdict, answer.known) == (("hit", 0) if good else ("outdated", 10))
    # The same entry after its soft expiry, in the place of an error of the function.
    late = replace(reply, status="lead", now_us=(SERVER_MS + 1001) * 1000)
    request = replace(request, policy=replace(request.policy, stale=60, stale_if_error=60))
    assert both.sync.leads._weigh(request, late).verdict == ("stale" if good else "none")
    instead = both.sync.leads._stale_on_error(request, unpack(entry), late, ValueError(), 0.0)
    assert (instead is not None) is good


def test_an_entry_that_ends_where_its_tags_begin_is_damaged() -> None:
    data = bytearray(pack(payload=b"", codec=1, soft_ms=SERVER_MS + 1000, span_ms=1000))
    data[3] |= TAGGED
    for stamp in (0, 11):
        both = clients()
        both.engine.state.marks.newest = stamp
        plan = Plan("f", Encoder(), Counters(), 0.0, 0.1, 0.0)
        served = Serving(both.engine).value(plan, "k", (), bytes(data), "master", 0, NOW, NOW, 0)
        assert type(served) is Unserved


def test_a_codec_in_the_place_of_the_default_one_decodes() -> None:
    class Louder(StrictCodec):
        def decode(self, data: bytes, types: TypeRegistry, context: bytes = b"") -> object:
            return str(super().decode(data, types, context)).upper()

    f = Cache("memory://", codec=Louder()).cached(lambda n: f"abc{n}")
    assert (f(1), f(1), f.peek(1)) == ("abc1", "ABC1", "ABC1")


def test_a_function_that_was_redefined_gets_objects_of_its_own_class() -> None:
    cache = Cache("memory://")

    def define() -> tuple[type, Any]:
        @dataclass
        class Page:
            n: int

        cache.register(Page)

        def page(n: int) -> Any:
            return Page(n)

        return Page, cache.cached(near=60, name="page")(page)

    old, first = define()
    assert [type(first(1)) for _ in range(3)] == [old] * 3
    new, second = define()
    cache._types._by_mark.clear()  # nothing but the newer class is known under the name
    cache.register(new)
    assert [type(second(1)) for _ in range(3)] == [new] * 3


@pytest.fixture(params=[0, 60], ids=["store", "near"])
def near(request: pytest.FixtureRequest) -> int:
    seconds: int = request.param
    return seconds


def test_every_call_is_counted_once(near: int) -> None:
    cache = Cache("memory://", beta=0)

    @cache.cached(near=near, cache_errors={LookupError: 60}, tags=("t:{n}",))
    def f(n: int, odd: Any = 0) -> Any:
        if n == 3:
            raise LookupError(n)
        return None if n == 1 else [n]

    calls = 0
    for turn in range(4):
        for n in (1, 2, 3, True, 10**300):
            for odd in (0, (1,)):
                calls += 1
                try:
                    assert f(n, odd) == (None if n == 1 else [n])
                except LookupError:
                    assert n == 3
        if turn == 2:
            cache.invalidate_tag("t:2")
    counters = f.stats().counters
    assert counters.misses == counters.computed == 12
    assert counters.hits + counters.misses == calls


def test_what_switches_the_cache_off_switches_hits_off(near: int) -> None:
    cache, runs = Cache("memory://", beta=0), []
    f = cache.cached(near=near)(lambda n: runs.append(n) or n)

    def runs_of(call: Callable[[], Any]) -> int:
        before = len(runs)
        assert call() == 1
        return len(runs) - before

    assert [runs_of(lambda: f(1)) for _ in range(4)] == [1, 0, 0, 0]
    with cache.disabled():
        assert runs_of(lambda: f(1)) == 1
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.append(runs_of(lambda: f(1))))
        other.start()
        other.join()
        assert seen == [0], "only this thread is without a cache"
    assert runs_of(lambda: f(1)) == 0
    with testing.off():
        assert runs_of(lambda: f(1)) == 1
    with testing.memory():
        assert [runs_of(lambda: f(1)) for _ in range(3)] == [1, 0, 0]
    with testing.record() as recording:
        assert [runs_of(lambda: f(1)) for _ in range(3)] == [1, 0, 0]
        assert len(recording.of(f).hits) == 2
    assert runs_of(lambda: f(1)) == 0
    cache.clear()
    assert [runs_of(lambda: f(1)) for _ in range(2)] == [1, 0]
    cache.close()
    assert [runs_of(lambda: f(1)) for _ in range(2)] == [1, 1]


@pytest.fixture(autouse=True)
def ordinary() -> Iterator[None]:
    """As if no test had used a mode before."""
    before, modes.ordinary = modes.ordinary, True
    yield
    modes.ordinary = before and modes.ordinary


def test_under_strict_consistency_all_goes_the_long_way(near: int) -> None:
    cache = Cache("memory://", consistency="strict")
    f = cache.cached(near=near)(lambda n: [n])
    assert f(1) == f(1) == f(1) == [1]
    hits = cache._hot.sync
    assert hits is not None
    assert type(hits.get(f._core.plan, f.key(1), ())) is Unserved
    assert f.stats().counters.misses == 1


def test_after_a_fork_nothing_near_is_taken_over() -> None:
    cache = Cache("memory://")
    f = cache.cached(near=60)(lambda n: [n])
    assert [f(1), f(1), f(1)] == [[1]] * 3
    state = cache._clients.engine.state  # type: ignore[union-attr]
    assert len(state.near) == 1
    state.after_fork()
    assert len(state.near) == state.near.size == 0
    assert f(1) == [1]


def test_tasks_and_cancelled_ones_count_what_they_got() -> None:
    cache = Cache("memory://", beta=0)

    @cache.cached
    async def f(n: int) -> int:
        await asyncio.sleep(0)
        return n

    async def main() -> int:
        await f(1)
        tasks = [asyncio.create_task(f(1)) for _ in range(64)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(result == 1 for result in results)

    answered = asyncio.run(main())
    assert f.stats().counters.hits == answered
