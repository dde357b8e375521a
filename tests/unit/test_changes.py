"""`changing`: between its ends nothing that it covers is cached, after them nothing of before (rule 22)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from evercache import Cache, testing
from evercache.errors import ConfigurationError


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache("memory://") as cache:
        yield cache


class Rows:
    """A table, and functions that read it."""

    def __init__(self, cache: Cache) -> None:
        self.rows: dict[int, str] = {7: "old", 8: "old"}
        self.cache = cache

        @cache.cached(name="row", tags=("project:{i}",))
        def row(i: int) -> str:
            return self.rows[i]

        @cache.cached(name="late", tags_from=lambda value: ["project:7"])
        def late(i: int) -> str:
            return self.rows[i]

        @cache.cached_many(name="many", tags=("project:{id}",))
        def many(ids: list[int]) -> dict[int, str]:
            return {i: self.rows[i] for i in ids}

        self.row: Any = row
        self.late: Any = late
        self.many: Any = many


@pytest.fixture
def rows(cache: Cache) -> Rows:
    return Rows(cache)


def what(rows: Rows, name: str) -> Any:
    return {"key": ((rows.row.key(7),), ()), "function": ((rows.row,), ()), "tag": ((), "project:7")}[name]


@pytest.mark.parametrize("name", ["key", "function", "tag"])
def test_what_is_read_in_between_is_not_cached(rows: Rows, name: str) -> None:
    assert rows.row(7) == "old"
    keys, tag = what(rows, name)
    with rows.cache.changing(*keys, tag=tag) as change:
        assert change.held
        assert rows.row(7) == "old"
        assert rows.row.peek(7) is None
        rows.rows[7] = "new"
        assert rows.row(7) == "new", "it was not kept, so this computed"
        assert rows.row.refresh(7) == "new"
        assert rows.row.peek(7) is None
        assert not change.done
    assert change.done
    assert not change.held
    assert rows.row(7) == "new"
    assert rows.row.peek(7) == "new"


def test_others_go_on(rows: Rows) -> None:
    with rows.cache.changing(rows.row.key(7)):
        assert rows.row(8) == "old"
        assert rows.row.peek(8) == "old"


def test_a_tag_that_only_the_result_has(rows: Rows) -> None:
    with rows.cache.changing(tag="project:7"):
        assert rows.late(7) == "old"
        assert rows.late.peek(7) is None
    assert rows.late(7) == "old"
    assert rows.late.peek(7) == "old"


def test_many_at_once(rows: Rows) -> None:
    with rows.cache.changing(tag="project:7"):
        assert rows.many([7, 8]) == {7: "old", 8: "old"}
        assert rows.many.peek([7, 8]) == {8: "old"}
        rows.rows[7] = "new"
        assert rows.many.refresh([7, 8]) == {7: "new", 8: "old"}
        assert rows.many.peek([7]) == {}
    assert rows.many([7]) == rows.many.peek([7]) == {7: "new"}
    with rows.cache.changing(rows.many):
        assert rows.many([8]) == {8: "old"}
        assert rows.many.peek([8]) == {}


def test_nothing_is_wrong_about_it(rows: Rows) -> None:
    client = rows.cache._client_sync()
    assert client is not None
    events: list[Any] = []
    client.engine.events.emit = lambda event: events.append(event)  # type: ignore[assignment,method-assign]
    with rows.cache.changing(tag="project:7"):
        assert rows.row(7) == rows.row.refresh(7) == "old"
        assert rows.many([7, 8]) == rows.many.refresh([7, 8]) == {7: "old", 8: "old"}
    assert [type(event).__name__ for event in events if "Unleased" in type(event).__name__] == []


def test_a_computation_from_before_its_begin(rows: Rows) -> None:
    reading, go = threading.Event(), threading.Event()

    @rows.cache.cached(name="slow", tags=("project:{i}",))
    def slow(i: int) -> str:
        value = rows.rows[i]
        reading.set()
        assert go.wait(5)
        return value

    thread = threading.Thread(target=slow, args=(7,))
    thread.start()
    assert reading.wait(5)
    with rows.cache.changing(tag="project:7"):
        go.set()
        thread.join()
        assert slow.peek(7) is None
        rows.rows[7] = "new"
    assert slow(7) == "new"


def test_a_value_that_was_read_before_is_refused_in_between(rows: Rows) -> None:
    key = rows.row.key(7)
    with rows.cache.changing(key):
        since = rows.cache.stamp()
        assert rows.cache.set(key, "old", since=since).reason == "outdated"
    assert rows.cache.set(key, "old", since=since).reason == "outdated"
    assert rows.cache.set(key, "new", since=rows.cache.stamp())


def test_two_at_once(rows: Rows) -> None:
    with rows.cache.changing(tag="project:7"):
        with rows.cache.changing(rows.row, rows.row.key(7), tag=("project:7", "project:8")):
            rows.row(7)
        rows.row(7)
        assert rows.row.peek(7) is None
    rows.row(7)
    assert rows.row.peek(7) == "old"


def test_an_error_in_the_block_ends_it(rows: Rows) -> None:
    with pytest.raises(KeyError), rows.cache.changing(tag="project:7"):
        rows.rows[7] = rows.rows.pop(7) and rows.rows[9]
    rows.rows[7] = "new"
    assert rows.row(7) == rows.row.peek(7) == "new"


def test_who_does_not_come_back_does_not_refuse_for_ever() -> None:
    with testing.memory() as stores, Cache("memory://") as cache:
        rows = Rows(cache)
        with cache.changing(tag="project:7", at_most=5) as change:
            stores.advance(4)
            rows.row(7)
            assert rows.row.peek(7) is None
            assert change.held
            stores.advance(2)
            assert not change.held
            rows.row(7)
            assert rows.row.peek(7) == "old"
            rows.rows[7] = "new"
        assert rows.row(7) == "new", "its end still counts"


async def test_for_tasks(rows: Rows) -> None:
    @rows.cache.cached(name="arow", tags=("project:{i}",))
    async def arow(i: int) -> str:
        return rows.rows[i]

    async with rows.cache.achanging(tag="project:7") as change:
        assert await arow(7) == "old"
        assert await arow.apeek(7) is None
        rows.rows[7] = "new"
    assert change.done
    assert await arow(7) == await arow.apeek(7) == "new"


async def test_a_task_that_is_cancelled_lets_go(rows: Rows) -> None:
    async def work() -> None:
        async with rows.cache.achanging(tag="project:7"):
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    rows.row(7)
    assert rows.row.peek(7) is None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    rows.row(7)
    assert rows.row.peek(7) == "old"


def test_in_a_fork_the_child_lets_go_of_nothing(rows: Rows) -> None:
    with rows.cache.changing(tag="project:7"):
        client = rows.cache._client_sync()
        assert client is not None
        state = client.engine.state
        (hold,) = state.holds.values()
        pid = os.fork()
        if not pid:
            os._exit(0 if not state.holds and not state.changed(hold) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert list(state.holds) == [hold.id]


def test_mistakes(rows: Rows) -> None:
    with pytest.raises(TypeError, match="name what"), rows.cache.changing():
        pass
    with pytest.raises(TypeError, match="a tag is a text"), rows.cache.changing(tag=(3,)):
        pass
    for wrong in (0, -1, 601):
        with pytest.raises(ConfigurationError), rows.cache.changing(tag="t", at_most=wrong):
            pass
    with pytest.raises(ConfigurationError, match="on_error"), rows.cache.changing(tag="t", on_error="no"):  # type: ignore[arg-type]
        pass


def test_switched_off_it_does_nothing(rows: Rows) -> None:
    with rows.cache.disabled(), rows.cache.changing(tag="project:7") as change:
        assert not change.held
    rows.cache.close()
    with rows.cache.changing(tag="project:7") as change:
        assert not change.held
    assert not change.done


def test_in_a_test_of_an_application(evercache_record: Any) -> None:
    with Cache("memory://") as cache:
        rows = Rows(cache)
        with cache.changing(rows.row.key(7), rows.row, tag="project:7"):
            pass
        assert [call.operation for call in evercache_record.invalidated] == [
            "delete", "invalidate_all", "invalidate_tag",
        ]  # fmt: skip
        assert evercache_record.invalidated.tag("project:7")
