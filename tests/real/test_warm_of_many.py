"""100,000 keys: interrupted half-way and gone on with, none is computed twice, and what the site felt of it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from tests.real.warm_tools import Visitor, Warmed, ended
from tests.servers import Deployment, wait_for

COUNT = 100_000
#: What the function writes of the first half of them.
HALF = sum(len(f"{n}\n") for n in range(COUNT // 2))


def quantile(times: list[float], share: float) -> float:
    return times[int(share * (len(times) - 1))] * 1e3


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_none_of_100_000_is_computed_twice(tmp_path: Path, number: signal.Signals) -> None:
    with Deployment.start() as servers:
        site = Warmed(tmp_path, servers.url)
        site.list(COUNT)
        with Visitor(site.url) as visitor:
            time.sleep(1)
            visitor.times()
            time.sleep(4)
            before = visitor.times()
            process = site.begin("shop_site:totals", "--args", "calls.jsonl", "--json")
            with ended(process):
                wait_for(lambda: site.file.stat().st_size > HALF, 500, "half of it", pause=0.05)
                process.send_signal(number)
                process.communicate(timeout=45)
            first, stored = site.runs(), site.stored()
            assert 0.4 * COUNT < first.total() < 0.8 * COUNT
            assert set(first.values()) == {1}
            lost = set(first) - stored
            assert len(lost) <= (0 if number == signal.SIGINT else 4), "what was under way when it was killed"
            visitor.times()
            told = site.told("shop_site:totals", "--args", "calls.jsonl", timeout=500)
            during = visitor.times()
        assert (told["code"], told["failed"], told["declined"], told["lost"]) == (0, 0, 0, 0)
        assert (told["cached"], told["computed"]) == (len(stored), COUNT - len(stored))
        twice = {n for n, runs in site.runs().items() if runs > 1}
        assert twice == lost
        assert len(site.runs()) == COUNT
        assert len(site.stored()) == COUNT
    rate = told["computed"] / told["seconds"]
    print(f"\n{number.name} at {first.total():,}; {len(lost)} lost under way")
    print(f"gone on with in {told['seconds']:.0f} s, gave way {told['slow_times']} times:", end=" ")
    print(f"{told['cached']:,} cached, {told['computed']:,} computed, {rate:,.0f} a second")
    for name, times in (("before", before), ("under it", during)):
        shown = ", ".join(f"{word} {quantile(times, share):.2f} ms" for word, share in _SHARES.items())
        print(f"a visitor {name}: {len(times):,} reads, {shown}")
    for name in ("before", "during"):
        one = told[name]
        print(f"the probe {name}: {one['reads']:,} reads, median {one['median'] * 1e3:.2f} ms", end=", ")
        print(f"p99 {one['p99'] * 1e3:.2f} ms, longest {one['longest'] * 1e3:.1f} ms, missed {one['missed']}")
    assert told["during"]["missed"] == 0


_SHARES = {"median": 0.5, "p99": 0.99, "longest": 1.0}
