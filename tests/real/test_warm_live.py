"""`evercache warm` on real servers: stopped and gone on with, giving way, and from what was hot."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.warm_tools import Warmed, ended
from tests.servers import DelayProxy, Server, free_port, wait_for

from evercache import Ack, Cache
from evercache.ops.warm.keeping import followed
from evercache.ops.warm.sample import hot_calls
from evercache.ops.warm.targets import Item, Target

WORKERS = 4


@pytest.fixture
def site(valkey: Server, tmp_path: Path) -> Warmed:
    return Warmed(tmp_path, valkey.url)


@pytest.fixture
def fresh_valkey() -> Iterator[Server]:
    with Server.start("valkey") as server:
        yield server


def stopped(site: Warmed, number: signal.Signals, enough: int) -> tuple[int, str]:
    """A run that gets a signal once the function ran so often."""
    process = site.begin("shop_site:totals", "--args", "calls.jsonl", "--no-probe", slow=0.01)
    with ended(process):
        wait_for(lambda: site.runs().total() >= enough, 30, "the first calls", pause=0.005)
        process.send_signal(number)
        told, _ = process.communicate(timeout=20)
    return process.returncode, told


def test_ctrl_c_loses_nothing_and_the_next_run_computes_the_rest(site: Warmed) -> None:
    site.list(300)
    code, told = stopped(site, signal.SIGINT, 100)
    assert code == 130
    assert "interrupted; run it again to go on" in told
    first = site.runs()
    assert 100 <= first.total() < 300
    assert set(first) == site.stored(), "what was under way was finished and kept"
    after = site.told("shop_site:totals", "--args", "calls.jsonl", "--no-probe")
    assert (after["code"], after["computed"], after["cached"]) == (0, 300 - first.total(), first.total())
    assert site.runs() == dict.fromkeys(range(300), 1)


def test_after_a_kill_nothing_that_is_stored_is_computed_again(site: Warmed) -> None:
    site.list(300)
    code, _ = stopped(site, signal.SIGKILL, 100)
    assert code == -signal.SIGKILL
    stored, first = site.stored(), site.runs()
    assert len(set(first) - stored) <= WORKERS, "only what was under way is lost"
    after = site.told("shop_site:totals", "--args", "calls.jsonl", "--no-probe")
    assert (after["code"], after["cached"]) == (0, len(stored))
    second = site.runs() - first
    assert set(second) == set(range(300)) - stored
    assert set(second.values()) == {1}


@pytest.mark.long
def test_two_runs_at_once_share_the_work(site: Warmed) -> None:
    site.list(300)
    arguments = ("shop_site:totals", "--args", "calls.jsonl", "--no-probe", "--json")
    one, two = (site.begin(*arguments, slow=0.005) for _ in range(2))
    with ended(one), ended(two):
        both = [json.loads(process.communicate(timeout=50)[0]) for process in (one, two)]
    assert sum(told["computed"] for told in both) == 300
    assert sum(told["cached"] for told in both) == 300
    assert site.runs() == dict.fromkeys(range(300), 1)


def test_what_fails_is_told_at_the_end_by_its_line(site: Warmed) -> None:
    (site.folder / "calls.jsonl").write_text('[1]\n[-1]\n["x"]\n[2]\n')
    code, told, messages = site.run("shop_site:totals", "--args", "calls.jsonl", "--no-probe")
    assert (code, told) == (2, "")
    assert "1 of 4 lines are no calls of shop_site.totals, so nothing was begun" in messages
    assert "line 3: n: Expected `int`, got `str`" in messages
    assert not site.runs()
    code, told, messages = site.run("shop_site:totals", "--args", "calls.jsonl", "--no-probe", "--skip-bad")
    assert code == 1
    assert "line 2: ValueError: no such project" in messages
    assert "line 3: n: Expected `int`, got `str`" in messages
    assert site.runs() == {1: 1, 2: 1}
    assert [line.split()[:5] for line in told.splitlines() if line.split()[:1] == ["4"]] == [
        ["4", "2", "0", "2", "0"]
    ]


def test_results_that_are_not_cached_are_told(site: Warmed) -> None:
    (site.folder / "calls.csv").write_text("n\n1\n0\n2\n")
    told = site.told("shop_site:positive", "--args", "calls.csv", "--no-probe")
    assert (told["code"], told["computed"], told["declined"], told["lost"]) == (0, 3, 1, 0)


def test_what_the_site_feels_is_reported(site: Warmed) -> None:
    site.list(60)
    told = site.told("shop_site:totals", "--args", "calls.jsonl", "--rate", "60")
    assert (told["code"], told["computed"], told["notes"]) == (0, 60, [])
    assert told["seconds"] > 59 / 60
    for part in ("before", "during"):
        assert told[part]["reads"] > 10, told
        assert 0 < told[part]["median"] <= told[part]["p99"] <= told[part]["longest"]
        assert 0 <= told[part]["missed"] < told[part]["reads"]


@pytest.mark.long
def test_the_report_is_for_people_too(site: Warmed) -> None:
    site.list(200)
    code, words, messages = site.run("shop_site:totals", "--args", "calls.jsonl")
    assert code == 0
    assert "the site's reads meanwhile" in words
    assert "200 of 200" in messages


@pytest.mark.long
def test_it_gives_way_while_the_servers_are_slow(site: Warmed, valkey: Server) -> None:
    site.list(400)
    with DelayProxy(valkey.port) as proxy:
        site.url = f"redis://127.0.0.1:{proxy.port}"
        process = site.begin("shop_site:totals", "--args", "calls.jsonl", "--json", slow=0.02)
        with ended(process):
            wait_for(lambda: site.runs().total() >= 20, 30, "the first calls")
            proxy.delay = 0.02
            time.sleep(2.5)
            proxy.delay = 0.0
            told = json.loads(process.communicate(timeout=50)[0])
    assert told["computed"] == 400
    assert told["slow_times"] >= 2
    assert told["least_workers"] == 1


@pytest.mark.long
def test_without_a_master_nothing_is_called(site: Warmed) -> None:
    site.list(3)
    site.url = f"redis://127.0.0.1:{free_port()}"
    code, _, messages = site.run("shop_site:totals", "--args", "calls.jsonl", "--patience", "0.3")
    assert code == 1
    assert "no master can be reached, so nothing would be kept" in messages
    assert not site.runs()
    site.url = "memory://"
    code, _, messages = site.run("shop_site:totals", "--args", "calls.jsonl")
    assert code == 2
    assert "set EVERCACHE_URL" in messages


@pytest.mark.long
def test_when_the_master_dies_it_waits_and_then_gives_up(tmp_path: Path) -> None:
    with Server.start("valkey") as server:
        site = Warmed(tmp_path, server.url)
        site.list(2000)
        process = site.begin(
            "shop_site:totals", "--args", "calls.jsonl", "--no-probe", "--patience", "1", slow=0.01
        )
        with ended(process):
            wait_for(lambda: site.runs().total() >= 50, 30, "the first calls")
            server.kill()
            told, messages = process.communicate(timeout=40)
    assert process.returncode == 1
    assert "waiting for a master" in messages
    assert "there was no master; run it again to go on" in told
    assert site.runs().total() < 1000, "while there is no master nothing is computed for nobody"


# -- from what was hot


def test_what_was_hot_is_computed_again(site: Warmed, valkey: Server) -> None:
    with Cache(valkey.url, namespace="shop", hot_samples=100) as cache:

        @cache.cached(ttl=3600, name="shop_site.totals")
        def totals(n: int, lang: str = "en") -> int:
            return n

        totals(1)
        assert cache._clients is not None
        hot = cache._clients.engine.hot
        hot.every = 0.3

        def read() -> bool:
            for turn in range(60):
                totals(1)
                totals(2, lang="de")
                if turn % 20 == 0:
                    totals(turn + 100)
            return valkey.cli("ZCARD", "shop~hot") >= 4

        wait_for(read, 30, "the sample")
        computed = totals.stats().counters.computed
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            read()
        assert totals.stats().counters.computed == computed, "a call that is caught is a hit all the same"
    assert 0 < valkey.cli("PTTL", "shop~hot") <= 30 * 86_400_000
    valkey.cli("EVAL", "for _, k in ipairs(redis.call('KEYS', 'shop:f:*')) do redis.call('DEL', k) end", "0")
    told = site.told("shop_site:totals", "--from-hot", "--top", "2", "--no-probe")
    assert (told["code"], told["computed"]) == (0, 2), told
    assert site.runs() == {1: 1, 2: 1}, "the hottest two, of the five that were read"
    code, _, messages = site.run("shop_site:cache", "--from-hot", "--no-probe")
    assert code == 0
    assert "calls of the sample" in messages
    assert set(site.runs().values()) == {1}
    assert len(site.runs()) >= 4


def test_an_empty_sample_is_told(site: Warmed) -> None:
    code, _, messages = site.run("shop_site:totals", "--from-hot", "--no-probe")
    assert code == 1
    assert "is hot_samples= of the cache set" in messages


def test_the_sample_survives_a_flush_and_a_new_version_is_warmed_by_the_old_one(valkey: Server) -> None:
    class Money:
        def __cache_key__(self) -> int:
            return 1

    with Cache(valkey.url, namespace="shop", hot_samples=100) as cache:

        @cache.cached(ttl=60, near=1, name="page@1")
        def page(n: int, *, lang: str = "en") -> int:
            return n

        @cache.cached(ttl=60)
        def price(money: Money) -> int:
            return 1

        @cache.cached_many(ttl=60)
        def users(ids: list[int]) -> dict[int, int]:
            return {id: id for id in ids}

        page(1)
        assert cache._clients is not None
        cache._clients.engine.hot.every = 0.2

        def read() -> None:
            for number in range(5):
                page(number, lang="de")
                price(Money())
                users([7, 8])

        def members() -> int:
            read()
            return int(valkey.cli("ZCARD", "shop~hot"))

        wait_for(lambda: members() >= 8, 30, "the sample")
        valkey.cli("FLUSHALL")
        wait_for(lambda: members() >= 8, 30, "the sample once more, of what the process remembers")

        @cache.cached(ttl=60, name="page@2")
        def page_2(n: int, *, lang: str = "en") -> int:
            return n

        found = hot_calls([Target(page_2._core), Target(price._core), Target(users._core)])
        assert {(item.args, *item.kwargs.items()) for target, item in found.calls if not target.many} == {
            ((number,), ("lang", "de")) for number in range(5)
        }
        assert {item.args for target, item in found.calls if target.many} == {(7,), (8,)}
        assert (found.lost, found.unfit, found.others) == (1, 0, 0), "the arguments of one are an object"
        assert [item.line for _, item in found.calls] == list(range(1, 8))

        @cache.cached(ttl=60, name="page@3")
        def page_3(number: int) -> int:
            return number

        assert hot_calls([Target(page_3._core)]).unfit == 5


async def test_what_tasks_call_is_sampled_too_and_a_child_samples_for_itself(valkey: Server) -> None:
    with Cache(valkey.url, namespace="shop", hot_samples=100) as cache:

        @cache.cached(ttl=60)
        async def price(n: int) -> int:
            return n

        @cache.cached_many(ttl=60)
        async def prices(ids: list[int]) -> dict[int, int]:
            return {id: id for id in ids}

        await price(1)
        assert cache._clients is not None
        hot = cache._clients.engine.hot
        hot.every = 0.1
        end = time.monotonic() + 30
        while int(valkey.cli("ZCARD", "shop~hot")) < 2 and time.monotonic() < end:
            for _ in range(20):
                await price(7)
                await prices([8])
        found = hot_calls([Target(price._core), Target(prices._core)])
        assert {item.args for _, item in found.calls} <= {(1,), (7,), (8,)}
        assert {(7,), (8,)} <= {item.args for _, item in found.calls}
        hot.armed = True
        cache._clients.divert(True)
        hot.after_fork()
        assert repr(hot) == "<HotSample 0 to bring, 0 kept>"
        assert cache._hot.asynchronous is cache._clients.asynchronous.hits


def test_without_the_setting_nothing_is_sampled(valkey: Server) -> None:
    with Cache(valkey.url, namespace="shop") as cache:

        @cache.cached(ttl=60)
        def f(n: int) -> int:
            return n

        for number in range(1000):
            f(number % 10)
        assert cache._clients is not None
        assert not cache._clients.engine.hot.armed
        assert repr(cache._clients.engine.hot) == "<HotSample 0 to bring, 0 kept>"
    assert valkey.cli("EXISTS", "shop~hot") == 0


# -- what the master did not take in time


def test_a_stall_of_the_master_costs_no_second_computation(fresh_valkey: Server) -> None:
    with Cache(fresh_valkey.url, namespace="shop") as cache:
        ran: list[int] = []

        @cache.cached(ttl=60, tags_from=lambda value: [f"row:{value['id']}"])
        def stalled(n: int) -> dict[str, int]:
            ran.append(n)
            fresh_valkey.freeze()
            timer.start()
            wait_for(lambda: not followed(cache), 10, "the master to be missed")
            return {"id": n}

        timer = threading.Timer(2.0, fresh_valkey.thaw)
        assert cache.stamp() is not None
        target = Target(stalled._core)
        try:
            (outcome,) = target.call(Item(1, (7,)))
        finally:
            timer.join()
        assert (outcome.what, outcome.kept) == ("warmed", "kept")
        assert target.standing([Item(1, (7,))]) == ["fresh"]
        assert stalled(7) == {"id": 7}
        assert ran == [7]
        cache.invalidate_tag("row:7")  # the tags of the result are there too
        assert stalled.peek(7) is None


def heard(cache: Cache, ack: Ack) -> None:
    """Wait until an invalidation of another process has come here: before that, a result is stored and outdated."""
    client = cache._client_sync()
    assert client is not None
    stamp = ack.stamp
    assert ack
    assert stamp is not None
    wait_for(lambda: client.engine.state.marks.newest >= stamp, 5, "it to be heard")


def test_what_was_invalidated_meanwhile_is_not_brought(valkey: Server) -> None:
    with Cache(valkey.url, namespace="shop") as cache, Cache(valkey.url, namespace="shop") as other:

        @other.cached(ttl=60, name="row")
        def row_elsewhere(n: int) -> int:
            return n

        @cache.cached(ttl=60, name="row")
        def row(n: int) -> int:
            heard(cache, row_elsewhere.invalidate(n))
            return n

        @cache.cached_many(ttl=60, name="rows")
        def rows(ids: list[int]) -> dict[int, int]:
            heard(cache, other.clear())
            return {id: id for id in ids if id > 0}

        assert cache.stamp() is not None
        (outcome,) = Target(row._core).call(Item(1, (7,)))
        assert (outcome.what, outcome.kept) == ("warmed", "lost")
        assert row.peek(7) is None
        items = [Item(line, (id,)) for line, id in enumerate((1, 2, -1), 1)]
        outcomes = Target(rows._core).call_many(items)
        assert [one.kept for one in outcomes] == ["lost", "lost", "declined"]
        assert rows.peek([1, 2]) == {}
