"""Descriptors, threads and memory withdrawn from a process for a second, at random moments, while it uses a cache.

    python -m tests.exhaustion --moments 50 --strict

They are really withdrawn, by the limits of the kernel: at the first use, while connections break, during a
failover, in the child of a fork. Four threads and an event loop call all the time. Judged are the exceptions that
callers see, how long calls take, and how soon the cache works fully again. `--strict` judges the times as an idle
machine allows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import random
import resource
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evercache import Cache
from evercache.ops.stalls import Stalls
from tests.deployment import Deployment

__all__ = ["judge", "run", "worker"]

KINDS = ("descriptors", "threads", "memory")
#: For so long (s) they are missing; what a call may take beyond its budget; within what time all must work again.
MISSING, BEYOND, WITHIN = 1.0, 0.02, 1.0
BUDGET = 0.25
#: Longer than this (s) nobody waits for full service.
PATIENCE = 15.0
_MOST = 20
#: Does not compress, and fits into no buffer that is there already.
LARGE = random.Random(1).randbytes(300_000).hex()


# -- withdrawing, in the worker


def become_limited() -> None:
    """Be a user whose number of threads the kernel limits, as it does not for root; files stay readable."""
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    uid = 100_000 + os.getpid() % 50_000  # nobody else's: their threads count as well
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresuid(uid, uid, uid)
    kept = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header = struct.pack("Ii", 0x20080522, 0)
    if libc.capset(header, struct.pack("6I", kept, kept, 0, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@contextlib.contextmanager
def withdrawn(kinds: Sequence[str], rng: random.Random) -> Iterator[None]:
    """Within it, there are no more descriptors, threads or bytes than there were."""
    before: list[tuple[int, tuple[int, int]]] = []
    held: list[int] = []

    def limit(what: int, value: int) -> None:
        before.append((what, resource.getrlimit(what)))
        resource.setrlimit(what, (value, before[-1][1][1]))

    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    if "threads" in kinds:
        limit(resource.RLIMIT_NPROC, 1)
    if "descriptors" in kinds:
        limit(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + 1)
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
    if "memory" in kinds:
        limit(resource.RLIMIT_AS, size + rng.randrange(1 << 21))
    try:
        yield
    finally:
        for what, old in before:
            resource.setrlimit(what, old)
        for descriptor in held:
            os.close(descriptor)


# -- using the cache, in the worker


class Calls:
    """What the callers met. Appended to by any thread, in single steps."""

    def __init__(self) -> None:
        self.count = 0
        self.errors: list[BaseException] = []
        self.own_errors = 0
        self.late: list[tuple[float, float, str]] = []

    def note_error(self, error: BaseException) -> None:
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        if isinstance(error, MemoryError) and not any("/evercache/" in f or f[0] == "<" for f in files):
            self.own_errors += 1  # of this harness
        elif len(self.errors) < _MOST:
            self.errors.append(error)

    def note(self, name: str, began: float, ended: float) -> None:
        self.count += 1
        if ended - began > BUDGET + BEYOND and len(self.late) < 1000:
            self.late.append((began, ended, name))


class User:
    """Functions of one cache, and what calls them."""

    def __init__(self, url: str, seed: int) -> None:
        self.cache = cache = Cache(url, namespace=f"exhaustion-{seed}", budget=BUDGET)
        self.calls = Calls()
        self.go, self.over = threading.Event(), threading.Event()
        self._seed = seed
        self._numbers = iter(range(10**9))

        @cache.cached(ttl=60, tags=("t:{number}",), stale=60)
        def page(number: int) -> tuple[int, str]:
            return next(self._numbers), LARGE if number % 4 == 0 else ""

        @cache.cached(ttl=60, near=5)
        async def apage(number: int) -> tuple[int, str]:
            return next(self._numbers), LARGE if number % 4 == 0 else ""

        self.page, self.apage = page, apage

    def _choose(self, rng: random.Random) -> tuple[str, Callable[[], Any]]:
        hot, draw = rng.randrange(20), rng.random()
        if draw < 0.6:
            return "hit", lambda: self.page(hot)
        if draw < 0.75:
            return "miss", lambda: self.page(1000 + rng.randrange(10**9))
        if draw < 0.85:
            return "invalidate", lambda: self.page.invalidate(hot)
        if draw < 0.9:
            return "invalidate_tag", lambda: self.cache.invalidate_tag(f"t:{hot}")
        if draw < 0.95:
            return "get", lambda: self.cache.get(f"k{hot}")
        return "set", lambda: self.cache.set(f"k{hot}", LARGE, ttl=60)

    def call(self, rng: random.Random) -> None:
        name, call = self._choose(rng)
        began = time.monotonic()
        try:
            call()
        except Exception as error:
            self.calls.note_error(error)
        self.calls.note(name, began, time.monotonic())

    def thread(self, number: int) -> None:
        rng = random.Random(f"{self._seed} {number}")
        self.go.wait()
        while not self.over.is_set():
            with contextlib.suppress(MemoryError):
                self.call(rng)
            time.sleep(0.003)

    async def _acall(self, rng: random.Random) -> None:
        hot, draw = rng.randrange(20), rng.random()
        began = time.monotonic()
        try:
            if draw < 0.6:
                await self.apage(hot)
            elif draw < 0.8:
                await self.apage(1000 + rng.randrange(10**9))
            elif draw < 0.9:
                await self.apage.ainvalidate(hot)
            else:
                await self.cache.aget_many([f"k{n}" for n in range(hot)])
        except Exception as error:
            self.calls.note_error(error)
        self.calls.note("async", began, time.monotonic())

    async def tasks(self) -> None:
        async def task(number: int) -> None:
            rng = random.Random(f"{self._seed} task {number}")
            while not self.go.is_set():
                await asyncio.sleep(0.01)
            while not self.over.is_set():
                with contextlib.suppress(MemoryError):
                    await self._acall(rng)
                await asyncio.sleep(0.003)

        await asyncio.gather(*map(task, range(4)))

    def _whole(self) -> bool:
        """An invalidation arrives, and what is computed after it is served from the servers."""
        before = self.page.stats().counters
        served = before.master_hits + before.replica_hits
        if not self.page.invalidate(-1).done:
            return False
        value = self.page(-1)
        again = self.page(-1)
        after = self.page.stats().counters
        return value == again and after.master_hits + after.replica_hits > served

    def until_whole(self, since: float) -> float:
        """The seconds until the cache works fully again; infinite after `PATIENCE`."""
        while time.monotonic() < since + PATIENCE:
            with contextlib.suppress(Exception):  # the callers note it
                if self._whole():
                    return max(0.0, time.monotonic() - since)
            time.sleep(0.01)
        return float("inf")


def _in_child(user: User, kinds: Sequence[str], rng: random.Random) -> dict[str, Any]:
    """The same in the child of a fork, from its first call on."""
    read, write = os.pipe()
    if os.fork() == 0:
        said = b"{}"
        try:
            os.close(read)
            user.calls = Calls()
            with withdrawn(kinds, rng):
                end = time.monotonic() + MISSING
                while time.monotonic() < end:
                    user.call(rng)
            took = user.until_whole(time.monotonic())
            said = json.dumps(_said(user.calls, None) | {"whole": [took]}).encode()
        except BaseException:
            said = json.dumps({"errors": [traceback.format_exc()]}).encode()
        finally:
            os.write(write, said)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result: dict[str, Any] = json.loads(pipe.read() or b'{"errors": ["the child said nothing"]}')
    os.wait()
    return result


def _said(calls: Calls, stalls: Stalls | None) -> dict[str, Any]:
    late = []
    for began, ended, name in calls.late:
        took = ended - began if stalls is None else stalls.without(began, ended)
        if took > BUDGET + BEYOND:
            late.append((took, name))
    return {
        "calls": calls.count,
        "errors": ["".join(traceback.format_exception(error)) for error in calls.errors],
        "own_errors": calls.own_errors,
        "late": sorted(late, reverse=True)[:_MOST],
    }


def worker(url: str, moments: int, seed: int, only: str = "") -> None:
    """The process that lacks something now and then: prints each moment, and at the end what it met."""
    become_limited()
    rng = random.Random(seed)
    user = User(url, seed)
    whole: list[tuple[float, str]] = []
    child: dict[str, Any] = {}
    threads = [threading.Thread(target=user.thread, args=(n,), daemon=True) for n in range(4)]
    threads.append(threading.Thread(target=lambda: asyncio.run(user.tasks()), daemon=True))
    for thread in threads:
        thread.start()
    time.sleep(0.2)  # their own loop is made
    with Stalls(noise=0.005) as stalls:
        for moment in range(moments):
            kinds = list(KINDS) if rng.random() < 0.3 else rng.sample(KINDS, rng.choice((1, 1, 2)))
            if only:
                kinds = only.split(",")
            kind = "first use" if not moment else ("failover" if moment == 2 else "fork" if moment == 4 else "")
            if not moment and not only:
                kinds = rng.choice((["descriptors"], ["threads"], list(KINDS)))
            if moment:
                time.sleep(rng.random() * 0.5)
            print("moment", moment, kind or "-", ",".join(kinds), flush=True)
            if kind == "fork":
                child = _in_child(user, kinds, rng)
                continue
            with withdrawn(kinds, rng):
                user.go.set()
                time.sleep(MISSING)
            since = time.monotonic()
            if kind == "failover":
                since = max(since, float(sys.stdin.readline()))
            whole.append((user.until_whole(since), f"{moment} {kind} {','.join(kinds)}".replace("  ", " ")))
        user.over.set()
        for thread in threads:
            thread.join(5)
        result = _said(user.calls, stalls)
    result |= {"whole": whole, "child": child, "problems": user.cache.health().problems}
    user.cache.close()
    print("result", json.dumps(result), flush=True)


# -- the servers, and the judgement


def run(moments: int, seed: int, only: str = "") -> dict[str, Any]:
    """Everything the worker met, on one primary with a replica and a sentinel that are its own."""
    rng = random.Random(f"servers {seed}")
    with Deployment.start(replicas=1, sentinels=1) as deployment:
        command = [sys.executable, "-c", "from tests.exhaustion import worker; import sys;"
                   "worker(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"]  # fmt: skip
        with subprocess.Popen(
            [*command, deployment.url, str(moments), str(seed), only],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    said, _, rest = line.partition(" ")
                    if said == "result":
                        result: dict[str, Any] = json.loads(rest)
                        return result
                    if "failover" in rest:
                        deployment.failover()
                        process.stdin.write(f"{time.monotonic()}\n")
                        process.stdin.flush()
                    elif rng.random() < 0.7:  # connections break, and new ones need descriptors
                        time.sleep(0.1 + 0.4 * rng.random())
                        for node in deployment.nodes:
                            node.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                raise AssertionError("the worker ended without a result")
            finally:
                process.kill()


def judge(result: dict[str, Any], *, beyond: float, within: float) -> list[str]:
    """What is wrong with it. `beyond` and `within` are seconds: of a call past its budget, until full service."""
    wrong = [f"a caller got\n{error}" for error in result["errors"]]
    child = result["child"]
    wrong += [f"in the child: {error}" for error in child.get("errors", ())]
    for of, where in ((result, ""), (child, "in the child: ")):
        wrong += [f"{where}{name} took {took:.3f} s" for took, name in of.get("late", ()) if took > BUDGET + beyond]
    whole = [*result["whole"], *((took, "child") for took in child.get("whole", ()))]
    wrong += [f"full service {took:.2f} s after {what}" for took, what in whole if took > within]
    return wrong


def describe(result: dict[str, Any]) -> str:
    """The figures, in one line."""
    whole = [took for took, _ in result["whole"]] + result["child"].get("whole", [])
    late = result["late"] + result["child"].get("late", [])
    return (
        f"{len(whole)} moments, {result['calls']} calls, {len(result['errors'])} exceptions, "
        f"{len(late)} calls past budget + {BEYOND * 1e3:.0f} ms "
        f"(longest {max((t for t, _ in late), default=0):.3f} s), "
        f"full service after {sorted(whole)[len(whole) // 2]:.2f} s (median), {max(whole):.2f} s (longest); "
        f"{result['own_errors']} of the harness's own"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exhaustion", description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="what is withdrawn each time, such as memory,threads")
    parser.add_argument("--strict", action="store_true", help="judge the times as an idle machine allows")
    options = parser.parse_args()
    result = run(options.moments, options.seed, options.only)
    print(describe(result))
    strict = {"beyond": BEYOND, "within": WITHIN} if options.strict else {"beyond": 1.0, "within": 5.0}
    wrong = judge(result, **strict)
    print("\n".join(wrong) or "nothing is wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
