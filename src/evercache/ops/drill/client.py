"""A process of the drill's load, `python -m evercache.ops.drill.client`: it reads and changes through evercache.

The plan is the first line on its standard input, where it does not show in the list of processes; then come orders,
each answered by the same word: `quiet` (no more edits; what is queued is brought), `final` (read every edited page
once more), `stop`. When its input ends, so does it: nothing outlives a drill that was killed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evercache import Cache
from evercache.ops.drill.records import EDITED, KEYS, Failure, Final, Hung, Recorder, Truth, Undelivered
from evercache.ops.meter import Call, Edit, Run
from evercache.ops.stalls import Stalls, cpu_wait

if TYPE_CHECKING:
    from evercache.function import CachedFunction

__all__ = ["ClientPlan", "pages"]

#: The function behind a page takes so long (s).
FUNCTION = 0.005
#: How often records are brought to the file (s), and how long what is queued may take after all was mended (s).
FLUSH, DRAIN = 0.4, 6.0
_TEXT = "what a page shows, some hundred bytes of it; " * 8
_WHAT = 160


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """One process: how many readers, how they pace themselves (seconds), how often it edits, and which pages."""

    url: str
    namespace: str
    folder: str
    number: int
    processes: int
    readers: int = 4
    pace: float = 0.03
    edit_every: float = 0.2

    def as_line(self) -> bytes:
        """As it is given to the process."""
        return json.dumps(asdict(self)).encode() + b"\n"


def pages(cache: Cache, compute: Any) -> CachedFunction[[int], Any]:
    """The cached function: under one name, whoever asks."""
    cached: CachedFunction[[int], Any] = cache.cached(ttl=1200, tags=("page:{key}",), name="evercache.drill.page")(
        compute
    )
    return cached


class Client:
    """The readers and the editor of one process, and the threads that note its stalls and write its records."""

    def __init__(self, plan: ClientPlan) -> None:
        self._plan = plan
        folder = Path(plan.folder)
        self._truth = Truth(folder)
        self._recorder = Recorder(folder, os.getpid())
        self._cache = Cache(plan.url, namespace=plan.namespace)
        self._page = pages(self._cache, self._compute)
        self._numbers = itertools.count()
        # The writer takes the notes out of the list while the thread appends: both are single steps.
        self._stalls = Stalls(idle_only=True)
        self._under_way: dict[int, tuple[int, float]] = {}
        self._over, self._quiet, self._drained = threading.Event(), threading.Event(), threading.Event()

    def __repr__(self) -> str:
        return f"<Client {self._plan.number} of {self._plan.processes}>"

    def _compute(self, key: int) -> tuple[int, int, int, str]:
        made = os.getpid() * 10_000_000 + next(self._numbers)
        began, version = time.monotonic(), self._truth[key]
        time.sleep(FUNCTION)
        self._recorder.note(Run(key, made, began, time.monotonic()))
        return key, version, made, _TEXT

    # -- reading

    def read(self, key: int, caller: int, noted: bool = True) -> Any:
        """One call, as a page would make it."""
        pid, began = os.getpid(), time.monotonic()
        self._under_way[caller] = key, began
        try:
            value = self._page(key)
            ended = time.monotonic()
            if value[0] != key:
                raise LookupError(f"the value of page {value[0]} was given for page {key}")
        except Exception as error:  # whatever reaches the caller is what is counted
            self._recorder.note(_failure("read", error))
            return None
        finally:
            self._under_way.pop(caller, None)
        if noted:
            self._recorder.note(Call(key, began, ended, value[1], value[2], value[2] // 10_000_000 == pid, pid))
        return value

    def warm(self) -> None:
        """Have this process's share of the pages cached, and know the others."""
        mine = range(self._plan.number, KEYS, self._plan.processes)
        for key in mine:
            self.read(key, -2, noted=False)
        self._recorder.flush()

    def _reader(self, number: int) -> None:
        rng = random.Random(f"{os.getpid()} {number}")
        while not self._over.wait(rng.uniform(0.5, 1.5) * self._plan.pace):
            match rng.randrange(4):
                case 0:
                    self.read(self._truth.newest, number)
                case 1:
                    self.read(rng.randrange(EDITED), number)
                case _:
                    self.read(rng.randrange(KEYS), number)

    # -- editing

    def _editor(self) -> None:
        rng = random.Random(f"{os.getpid()} editor")
        mine = range(self._plan.number, EDITED, self._plan.processes)
        waiting: list[tuple[int, int]] = []
        while not self._quiet.wait(rng.uniform(0.5, 1.5) * self._plan.edit_every):
            key = rng.choice(mine)
            self._truth[key] += 1
            self._edit(key, self._truth[key], bool(rng.getrandbits(1)), waiting)
            self._delivered(waiting)
        end = time.monotonic() + DRAIN
        while self._cache.stats().pending and time.monotonic() < end:
            time.sleep(0.02)
        if pending := self._cache.stats().pending:
            self._recorder.note(Undelivered(pending, os.getpid()))
        self._delivered(waiting)
        self._recorder.note_all(Edit(key, version, float("inf"), False) for key, version in waiting)
        self._drained.set()

    def _edit(self, key: int, version: int, by_tag: bool, waiting: list[tuple[int, int]]) -> None:
        began = time.monotonic()
        self._under_way[-1] = key, began
        try:
            ack = self._cache.invalidate_tag(f"page:{key}") if by_tag else self._page.invalidate(key)
        except Exception as error:
            self._recorder.note(_failure("invalidation", error))
            return
        finally:
            self._under_way.pop(-1, None)
        now = time.monotonic()
        self._recorder.note(Call(key, began, now, -1, -1, False, os.getpid()))
        if ack:
            self._truth.newest = key
            self._recorder.note(Edit(key, version, now, True))
        else:
            waiting.append((key, version))

    def _delivered(self, waiting: list[tuple[int, int]]) -> None:
        """What was queued counts as acknowledged when nothing is pending any more."""
        if waiting and not self._cache.stats().pending:
            now = time.monotonic()
            self._recorder.note_all(Edit(key, version, now, False) for key, version in waiting)
            waiting.clear()

    # -- all of it

    def _writer(self) -> None:
        """Append the records to the file; on a thread of its own, so that a slow disk hides no stall."""
        while not self._over.wait(FLUSH):
            self._flush()

    def _flush(self) -> None:
        stalls = self._stalls.overslept
        new = stalls[:]
        del stalls[: len(new)]
        self._recorder.note_all(one._replace(pid=os.getpid()) for one in new)
        if (waited := cpu_wait()) is not None:
            self._recorder.note(waited)
        self._recorder.flush()

    def work(self, orders: Any, say: Any) -> None:
        """Until `stop`, or the end of the input."""
        tasks = [lambda n=n: self._reader(n) for n in range(self._plan.readers)]
        threads = [threading.Thread(target=task, daemon=True) for task in (*tasks, self._editor, self._writer)]
        with self._stalls:
            for thread in threads:
                thread.start()
            say("ready")
            self._obey(orders, say, threads)

    def _obey(self, orders: Any, say: Any, threads: list[threading.Thread]) -> None:
        for order in orders:
            match order.strip():
                case b"quiet":
                    self._quiet.set()
                    self._drained.wait(2 * DRAIN)
                case b"final":
                    self._finals()
                case b"stop":
                    self._end(threads)
                    say("stop")
                    return
            say(order.strip().decode())

    def _finals(self) -> None:
        for key in range(EDITED):
            value = self.read(key, -3, noted=False)
            if value is not None:
                self._recorder.note(Final(key, value[1], os.getpid()))

    def _end(self, threads: list[threading.Thread]) -> None:
        self._quiet.set()
        self._over.set()
        end = time.monotonic() + DRAIN
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        now = time.monotonic()
        self._recorder.note_all(Hung(key, now - began) for key, began in self._under_way.copy().values())
        self._flush()
        self._cache.close()


def _failure(what: str, error: Exception) -> Failure:
    return Failure(time.monotonic(), f"{what}: {type(error).__name__}: {error}"[:_WHAT])


def main() -> None:
    """Entry of the process."""
    orders = sys.stdin.buffer
    out = os.fdopen(os.dup(1), "wb", 0)
    plan = ClientPlan(**json.loads(orders.readline()))
    client = Client(plan)
    client.warm()
    client.work(orders, lambda word: out.write(word.encode() + b"\n"))
    sys.stdout.flush()
    os._exit(0)  # a call that hangs must not keep it


if __name__ == "__main__":
    main()
