"""One process's load: readers that pace themselves, an editor that invalidates, a thread that only sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evercache import Cache
from evercache.ops.meter import Call, Edit, Run
from evercache.ops.stalls import NAP, Stalls
from tests.faults.plans import LoadPlan
from tests.faults.records import EDITORS, KEYS, RESERVED, Sample, Truth, Written

__all__ = ["Load"]

#: A call that has not returned so long (s) after everything was mended hangs.
HANGS = 6.0
#: How often a process notes what it holds (s).
SAMPLE = 2.0


class Load:
    """One process's readers and editor. The lists are appended to by many threads (each append is one step)."""

    def __init__(self, plan: LoadPlan, cache: Cache) -> None:
        self.plan, self.cache = plan, cache
        self.folder = Path(plan.folder)
        self.truth = Truth(self.folder)
        self.written = Written(os.getpid(), plan.group, plan.kind)
        self.over = threading.Event()
        self._due_sample = 0.0
        self._numbers = itertools.count()
        self._ran = threading.local()
        self._under_way: dict[int, tuple[int, float]] = {}
        functions = []
        for near in (0, 2):
            options: dict[str, Any] = {"ttl": 600, "tags": ("page:{key}",), "name": f"page{near}", "near": near}
            functions.append((cache.cached(**options)(self._page), cache.cached(**options)(self._apage)))
        self._functions = functions

    # -- the function

    def _begin(self, key: int) -> tuple[int, float, int]:
        made = os.getpid() * 10_000_000 + next(self._numbers)
        return made, time.monotonic(), self.truth[key]

    def _page(self, key: int) -> tuple[int, int, int]:
        made, began, version = self._begin(key)
        time.sleep(self.truth.seconds(key))
        self.written.runs.append(Run(key, made, began, time.monotonic()))
        return key, version, made

    async def _apage(self, key: int) -> tuple[int, int, int]:
        made, began, version = self._begin(key)
        await asyncio.sleep(self.truth.seconds(key))
        self.written.runs.append(Run(key, made, began, time.monotonic()))
        return key, version, made

    # -- calls

    def _of(self, key: int, tasks: bool) -> Any:
        """Every fourth key is also kept in the process."""
        return self._functions[key % 4 == 1][tasks]

    def _note(self, calls: list[Call], key: int, began: float, value: Any) -> None:
        if value is not None and value[0] != key:
            self.written.errors.append(f"the value of another key: {value!r} for {key}")
        pid = os.getpid()
        version, made = (value[1], value[2]) if value is not None else (-1, -1)
        calls.append(Call(key, began, time.monotonic(), version, made, made // 10_000_000 == pid, pid))

    def read(self, key: int, calls: list[Call], caller: int) -> Any:
        began = time.monotonic()
        self._under_way[caller] = key, began
        try:
            value = self._of(key, False)(key)
        except BaseException as error:
            self.written.errors.append(f"read: {error!r}")
            return None
        finally:
            self._under_way.pop(caller, None)
        self._note(calls, key, began, value)
        return value

    async def aread(self, key: int, calls: list[Call], caller: int) -> Any:
        began = time.monotonic()
        self._under_way[caller] = key, began
        try:
            value = await self._of(key, True)(key)
        except Exception as error:
            self.written.errors.append(f"read: {error!r}")
            return None
        finally:
            self._under_way.pop(caller, None)
        self._note(calls, key, began, value)
        return value

    def _reader(self, number: int) -> None:
        rng = random.Random(f"{os.getpid()} {number}")
        while not self.over.wait(rng.uniform(0.5, 1.5) * self.plan.pace):
            self.read(rng.randrange(KEYS), self.written.calls, number)

    async def _areader(self, number: int) -> None:
        rng = random.Random(f"{os.getpid()} {number}")
        while not self.over.is_set():
            await asyncio.sleep(rng.uniform(0.5, 1.5) * self.plan.pace)
            await self.aread(rng.randrange(KEYS), self.written.calls, number)

    # -- edits

    def edits(self) -> Iterator[tuple[int, int]]:
        """The truth changes: key and version, again and again."""
        rng = random.Random(self.plan.editor)
        mine = [key for key in range(self.plan.editor, KEYS, EDITORS) if key != RESERVED]
        while not self.over.is_set():
            key = rng.choice(mine)
            self.truth[key] += 1
            yield key, self.truth[key]

    def _edited(self, key: int, version: int, began: float, done: bool, waiting: list[tuple[int, int]]) -> None:
        now = time.monotonic()
        self.written.calls.append(Call(key, began, now, -1, -1, False, os.getpid()))
        if done:
            self.written.edits.append(Edit(key, version, now, True))
        else:
            waiting.append((key, version))

    def _delivered(self, waiting: list[tuple[int, int]]) -> None:
        """What was queued counts as acknowledged when nothing is pending any more."""
        if waiting and not self.cache.stats().pending:
            now = time.monotonic()
            self.written.edits.extend(Edit(key, version, now, False) for key, version in waiting)
            waiting.clear()

    def _editor(self) -> None:
        waiting: list[tuple[int, int]] = []
        for number, (key, version) in enumerate(self.edits()):
            began = time.monotonic()
            self._under_way[-1] = key, began
            try:
                by_tag = number % 2
                ack = self.cache.invalidate_tag(f"page:{key}") if by_tag else self._of(key, False).invalidate(key)
                self._edited(key, version, began, bool(ack), waiting)
                if not ack and not ack.queued:
                    self.written.errors.append(f"edit: {ack!r}")
            except BaseException as error:
                self.written.errors.append(f"edit: {error!r}")
            finally:
                self._under_way.pop(-1, None)
            self._delivered(waiting)
            time.sleep(self.plan.edit_every)
        self._drain(waiting)

    async def _aeditor(self) -> None:
        waiting: list[tuple[int, int]] = []
        for number, (key, version) in enumerate(self.edits()):
            began = time.monotonic()
            try:
                function = self._of(key, True)
                ack = await (self.cache.ainvalidate_tag(f"page:{key}") if number % 2 else function.ainvalidate(key))
                self._edited(key, version, began, bool(ack), waiting)
                if not ack and not ack.queued:
                    self.written.errors.append(f"edit: {ack!r}")
            except Exception as error:
                self.written.errors.append(f"edit: {error!r}")
            self._delivered(waiting)
            await asyncio.sleep(self.plan.edit_every)
        await asyncio.to_thread(self._drain, waiting)

    def _drain(self, waiting: list[tuple[int, int]]) -> None:
        end = time.monotonic() + HANGS
        while self.cache.stats().pending and time.monotonic() < end:
            time.sleep(0.02)
        self.written.undelivered = self.cache.stats().pending
        self._delivered(waiting)
        self.written.edits.extend(Edit(key, version, float("inf"), False) for key, version in waiting)

    # -- what is held, and how late the loop is

    def _hold(self) -> None:
        """Note what the process holds, if it is due."""
        now = time.monotonic()
        if now > self._due_sample:
            self._due_sample = now + SAMPLE
            self.written.spill(self.folder)
            self.written.samples.append(sample())

    async def _acontrol(self) -> None:
        while not self.over.is_set():
            due = time.monotonic() + NAP
            await asyncio.sleep(NAP)
            self.written.loop_late = max(self.written.loop_late, time.monotonic() - due)

    # -- all of it

    def run(self) -> None:
        """Until `over`; then what was queued is delivered, or given up."""
        with Stalls(self.written.overslept, between=self._hold):
            if self.plan.kind == "tasks":
                asyncio.run(self._tasks())
            else:
                self._threads()

    def _threads(self) -> None:
        threads = [threading.Thread(target=self._reader, args=(n,), daemon=True) for n in range(self.plan.callers)]
        threads.append(threading.Thread(target=self._editor, daemon=True))
        for thread in threads:
            thread.start()
        self.over.wait()
        end = time.monotonic() + 2 * HANGS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._hung()

    async def _tasks(self) -> None:
        tasks = {asyncio.ensure_future(self._areader(number)) for number in range(self.plan.callers)}
        tasks |= {asyncio.ensure_future(self._aeditor()), asyncio.ensure_future(self._acontrol())}
        await asyncio.to_thread(self.over.wait)
        await asyncio.wait(tasks, timeout=2 * HANGS)
        self._hung()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _hung(self) -> None:
        now = time.monotonic()
        self.written.hung = [f"key {key} for {now - began:.1f} s" for key, began in self._under_way.values()]

    def finals(self) -> None:
        """What each key is now, by what this process knows."""
        for key in range(KEYS):
            self.read(key, self.written.finals, -2)

    def save(self) -> None:
        self.written.counters = self.cache.stats().counters.as_dict()
        self.written.save(self.folder)


def sample() -> Sample:
    """What this process holds now."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        return Sample(time.monotonic(), pages * resource.getpagesize(), threading.active_count(), files)
    return Sample(time.monotonic(), 0, threading.active_count(), 0)
