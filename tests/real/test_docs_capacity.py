"""What the sheet says of the memory of an entry is what a server takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.servers import Server, wait_for

from evercache import Cache

TEXT = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text(encoding="utf-8")
COUNT = 4_000


@pytest.mark.parametrize(("size", "tags"), [(200, ("project:{id}",)), (1000, ())])
def test_the_memory_of_an_entry(size: int, tags: tuple[str, ...]) -> None:
    (row,) = re.findall(r"entries × \(key \+ payload \+ (\d+) bytes, and (\d+) for tags\)", TEXT)
    plain, tagged = map(int, row)
    # A server of its own: what another one frees it frees late.
    with (
        Server.start("valkey") as valkey,
        Cache(valkey.url, namespace="shop", compress_above=1 << 20, budget=20, max_staleness=30) as cache,
    ):

        @cache.cached_many(ttl=3600, name="app.views.page", tags=tags)
        def page(ids: list[int]) -> dict[int, str]:
            return dict.fromkeys(ids, "x" * size)

        first = 500
        page(list(range(first)))  # connections and their buffers are there
        assert cache.stamp() is not None
        before = int(valkey.info("memory")["used_memory"])

        def filled() -> bool:
            for start in range(10_000, 10_000 + COUNT, 500):
                page(list(range(start, start + 500)))
            return int(valkey.cli("DBSIZE")) >= COUNT + first

        wait_for(filled, 40, "the entries")
        taken = (int(valkey.info("memory")["used_memory"]) - before) / COUNT
        key = len(page.key([10_000])[10_000])
    said = key + size + plain + (tagged if tags else 0)
    # The allocator rounds up by as much as a fifth of small sizes; connections come and go.
    assert taken == pytest.approx(said, rel=0.2), (taken, said)
