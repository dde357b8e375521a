"""Each change of state of real servers is told once: in the log, by the counters, in health, to subscribers."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from tests.real.trouble_tools import Site, reading, timed
from tests.servers import Deployment, Server, wait_for

from evercache import Cache, Health
from evercache.observe import Begins, Event, Occasion, events

BUDGET = 0.25
#: On a machine that stalls for a moment a trouble may be met twice, but never once for each call.
FEW = range(1, 4)


class Told:
    """What a cache told, in all the ways in which it does."""

    def __init__(self, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
        self.cache = cache
        self.seen: list[Event] = []
        self._caplog = caplog
        caplog.set_level(logging.INFO, "evercache")
        cache.subscribe(self.seen.append)

    def names(self) -> list[str]:
        return [event.kind for event in self.seen]

    def logged(self) -> list[Event]:
        return [record.evercache_event for record in self._caplog.records if hasattr(record, "evercache_event")]

    def wait(self, kind: type[Event], timeout: float = 15.0) -> Event:
        """The newest event of a kind, once it was told."""
        wait_for(lambda: kind.__name__ in self.names(), timeout, f"{kind.__name__} among {self.names()}")
        event = next(event for event in reversed(self.seen) if event.kind == kind.__name__)
        wait_for(lambda: event in self.logged(), 5, f"{event} in the log")  # the thread that met it logs it
        return event

    def agree(self, before: dict[str, int] | None = None) -> Health:
        """The log, the counters (since `before`), health and the subscribers say the same."""

        def differ() -> tuple[str, Health]:
            health = self.cache.health()
            seen, logged = list(self.seen), self.logged()
            if Counter(logged) != Counter(seen):  # two threads may log in another order
                return f"{logged} and {seen}", health
            for kind, count in Counter(event.kind for event in seen).items():
                counted = health.events[kind] - (before or {}).get(kind, 0)
                # What comes at each call is counted more often than told; a state in another phase, less often.
                often = issubclass(getattr(events, kind), Occasion)
                again = issubclass(getattr(events, kind), Begins)
                if not (counted >= count if often else counted <= count if again else counted == count):
                    return f"{kind}: {counted} and {count}", health
            newest = [(event.kind, event.message) for event in reversed(seen)]
            recent = [(event.kind, event.message) for event in health.recent]
            same = recent[: len(newest)] == newest[: len(recent)]
            return "" if same else f"{recent} and {newest}", health

        # Something may happen between the looks at the one and the other.
        wait_for(lambda: not differ()[0], 5, f"{differ()[0]} to agree")
        _, health = differ()
        json.dumps(asdict(health))
        ages = [event.age for event in health.recent]
        assert ages == sorted(ages)
        return health


@contextlib.contextmanager
def callers(cache: Cache, site: Site, tasks: bool) -> Iterator[None]:
    """Four threads (or loops) that read all the time; no call fails."""
    page = site.aon(cache) if tasks else site.on(cache)
    with contextlib.ExitStack() as stack:
        answers = [stack.enter_context(reading(page, number)) for number in range(4)]
        wait_for(lambda: all(answer.all for answer in answers), 5, "all to read")
        yield
    assert [answer.errors for answer in answers] == [[]] * 4


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_a_server_that_dies_and_comes_back(tasks: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of calls meet it, and it is said once."""
    site = Site()
    with Server.start("valkey") as server, Cache(server.url) as cache:
        told = Told(cache, caplog)
        with callers(cache, site, tasks):
            server.kill()
            lost = told.wait(events.MasterLost)
            assert lost in told.logged()
            assert not cache.set("k", "v")

            def met() -> int:
                counters = cache.stats().counters
                return counters.gutter_hits + counters.computed_unleased

            before = met()
            wait_for(lambda: met() > before + 500, 15, "many calls to meet it")
            down = told.agree()
            assert any("does not serve" in problem for problem in down.problems)
            assert not down.ok
            server.restart()
            told.wait(events.MasterServes)
            told.wait(events.QueueEmptied)
        wait_for(lambda: cache.health().ok, 15, f"{cache.health().problems} to be over")
        up = told.agree()
        counts = Counter(told.names())
        for kind in (
            "MasterLost",
            "MasterServes",
            "InvalidationQueued",
            "QueueEmptied",
            "GutterUsed",
            "GutterLeft",
        ):
            assert counts[kind] == up.events[kind], kind
            assert counts[kind] in FEW, counts
        assert counts["MasterServes"] == counts["MasterLost"]
        assert up.events["CallFailed"] > 0
        assert up.events["ComputedUnleased"] >= 4
        assert max(counts.values()) <= 10, "one for each reason or error, never one for each call"


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_a_frozen_replica(tasks: bool, caplog: pytest.LogCaptureFixture) -> None:
    with Server.start("valkey") as master, Server.start("valkey", replica_of=master) as replica:
        url = f"redis://127.0.0.1:{master.port}?replicas=127.0.0.1:{replica.port}"
        with Cache(url) as cache:
            told = Told(cache, caplog)
            with callers(cache, Site(), tasks):
                told.wait(events.ReplicaAdmitted)
                wait_for(lambda: cache.stats().counters.replica_hits > 50, 15, "reads to go there")
                told.seen.clear()  # a new replica is ejected until it has copied the data
                caplog.clear()
                before = cache.health().events
                replica.freeze()
                ejected = told.wait(events.ReplicaEjected)
                assert isinstance(ejected, events.ReplicaEjected)
                assert ejected.address == str(replica.address)
                wait_for(lambda: cache.stats().counters.master_hits > 50, 15, "reads to go to the master")
                assert not told.agree(before).ok
                replica.thaw()
                told.wait(events.ReplicaReturned)
            wait_for(lambda: cache.health().ok, 15, f"{cache.health().problems} to be over")
            health = told.agree(before)
            counts = Counter(told.names())
            # A read that was under way may fail after the return, and ejects it once more.
            times = health.events["ReplicaEjected"] - before.get("ReplicaEjected", 0)
            assert times in FEW, counts
            assert counts["ReplicaReturned"] == times
            # On its return it may say first that it has lost its link: the same state in another phase.
            assert times <= counts["ReplicaEjected"] <= 2 * times
            assert health.events["ReplicaAdmitted"] == 1


def test_a_failover_and_a_sentinel(caplog: pytest.LogCaptureFixture) -> None:
    with Deployment.start() as whole, Cache(whole.url) as cache:
        told = Told(cache, caplog)
        with callers(cache, Site(), tasks=False):
            wait_for(lambda: told.names().count("ReplicaAdmitted") == 2, 15, "the replicas to be admitted")
            one = whole.sentinels[0]
            one.freeze()
            told.wait(events.SentinelSilent)
            name = f"sentinel {one.address}"
            wait_for(lambda: any(p.startswith(name) for p in cache.health().problems), 5, "health to say so")
            one.thaw()
            told.wait(events.SentinelAnswers)
            old = whole.master()
            old.kill()
            wait_for(lambda: told.names().count("MasterChanged") == 2, 20, "the new master to be followed")
            changed = told.wait(events.MasterChanged)
            assert isinstance(changed, events.MasterChanged)
            assert (changed.old, changed.new) == (str(old.address), str(whole.wait_new_master(old).address))
            told.wait(events.ReplicaRemoved)
            wait_for(lambda: cache.set("k", "v"), 15, "the new master to take writes")

        def lost() -> list[str]:
            return [problem for problem in cache.health().problems if "does not serve" in problem]

        wait_for(lambda: not lost(), 15, "the loss of the old master to be over")
        told.agree()
        counts = Counter(told.names())
        for kind in ("SentinelSilent", "SentinelAnswers", "MasterLost"):
            assert counts[kind] in FEW, counts
        resyncs = [event.reason for event in told.seen if isinstance(event, events.Resynced)]
        assert resyncs == ["start", "master"]


def test_a_flushed_server(valkey: Server, caplog: pytest.LogCaptureFixture) -> None:
    with Cache(valkey.url, namespace="flushed") as cache:
        told = Told(cache, caplog)
        assert cache.invalidate_tag("t")
        valkey.cli("FLUSHALL")
        assert told.wait(events.MarksRestored) == events.MarksRestored(1)
        wait_for(lambda: cache.health().ok, 15, "it to be over")
        told.agree()
        assert [event.reason for event in told.seen if isinstance(event, events.Resynced)] == ["start", "life"]


def test_an_evicted_log(valkey: Server, caplog: pytest.LogCaptureFixture) -> None:
    with Cache(valkey.url, namespace="evicted") as cache:
        told = Told(cache, caplog)
        assert cache.delete("k")
        # A line that was evicted before this process read it, and no other one follows.
        valkey.cli("HSET", "evicted~state", "last", f"{2**45}-0")

        def reasons() -> list[str]:
            return [event.reason for event in told.seen if isinstance(event, events.Resynced)]

        wait_for(lambda: "gap" in reasons(), 15, "the gap to be noticed")
        wait_for(lambda: cache.health().ok, 15, "it to be over")


def test_a_damaged_entry(valkey: Server, caplog: pytest.LogCaptureFixture) -> None:
    with Cache(valkey.url, namespace="damaged") as cache:
        told = Told(cache, caplog)
        for number in range(20):
            key = f"k{number}"
            cache.set(key, number)
            valkey.cli("SET", cache.naming.direct_key("damaged", key), "nonsense")
            assert cache.get(key) is None
        health = told.agree()
        assert health.events["EntryCorrupt"] >= 20
        assert told.names().count("EntryCorrupt") == 1


def test_a_subscriber_that_hangs_holds_up_no_call(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    with Server.start("valkey") as server, Cache(server.url) as cache:
        cache.subscribe(lambda event: go.wait(10))
        try:
            assert cache.set("k", "v")
            server.kill()
            ack, took = timed(cache.delete, "k")
            assert ack.queued
            assert took < 4 * BUDGET
            server.restart()
            wait_for(lambda: cache.set("k", "v"), 5, "the server to be used again")
        finally:
            go.set()
