"""The processes under load: `python -m tests.faults.worker PLAN` does what a `LoadPlan` says.

It works until it is told to stop, checks that what was acknowledged is still known, and writes down what each
call was like.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evercache import Cache
from tests.faults.load import Load
from tests.faults.plans import LoadPlan, open_cache
from tests.faults.records import EDITORS, KEYS, RESERVED, Journal, Truth

__all__: list[str] = []


def work(plan: LoadPlan, cache: Cache, lines: Any, out: Any) -> None:
    """Warm up, say `ready`, work until `stop`, say `stopped`, and at `final` read everything once more."""
    load = Load(plan, cache)
    for key in range(KEYS):
        load.read(key, [], -1)
    load.written.calls.clear()
    load.written.runs.clear()
    out.write(b"ready\n")

    def listen() -> None:
        lines.readline()
        load.over.set()

    threading.Thread(target=listen, daemon=True).start()
    load.run()
    out.write(b"stopped\n")
    lines.readline()
    load.finals()
    if plan.group == "w":  # a process that has heard of nothing
        with open_cache(plan) as fresh:
            later = Load(plan, fresh)
            later.finals()
            load.written.finals += later.written.finals
            load.written.errors += later.written.errors
    load.save()
    cache.close()


def prefork(plan: LoadPlan, lines: Any, out: Any) -> None:
    """A parent that has used the cache already, in threads, forks two workers."""
    cache = open_cache(plan)
    load = Load(plan, cache)
    load.finals()
    cache.invalidate_tag("parent")
    pipes: list[tuple[Any, Any]] = []
    children: list[int] = []
    for number in range(2):
        (child_in, to_child), (from_child, child_out) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.close(to_child)
            os.close(from_child)
            for stdin, stdout in pipes:
                stdin.close()
                stdout.close()
            mine = LoadPlan(**{**asdict(plan), "editor": plan.editor + number})
            code = 1
            try:
                work(mine, cache, os.fdopen(child_in, "rb", 0), os.fdopen(child_out, "wb", 0))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(child_in)
        os.close(child_out)
        children.append(pid)
        pipes.append((os.fdopen(to_child, "wb", 0), os.fdopen(from_child, "rb", 0)))
    for word in (b"stop\n", b"final\n"):
        for _, stdout in pipes:
            stdout.readline()
        out.write(b"ready\n" if word == b"stop\n" else b"stopped\n")
        lines.readline()
        for stdin, _ in pipes:
            stdin.write(word)
    worst = max(os.waitpid(pid, 0)[1] for pid in children)
    cache.close()
    if worst:
        raise SystemExit(f"a worker ended with {worst}")


def nursery(plan: LoadPlan, lines: Any, out: Any) -> None:
    """One short-lived process after another: it invalidates, and is killed right after an acknowledgement."""
    out.write(b"ready\n")
    over = threading.Event()

    def listen() -> None:
        lines.readline()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    rng = random.Random(plan.editor)
    while not over.wait(0.05):
        pid = os.fork()
        if not pid:
            try:
                _short_life(plan, rng.randrange(1, 8))
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        rng.random()
    out.write(b"stopped\n")
    lines.readline()


def _short_life(plan: LoadPlan, edits: int) -> None:
    truth, journal = Truth(Path(plan.folder)), Journal(Path(plan.folder))
    rng = random.Random(os.getpid())
    mine = [key for key in range(plan.editor, KEYS, EDITORS) if key != RESERVED]
    cache = open_cache(plan)
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        key = rng.choice(mine)
        truth[key] += 1
        version = truth[key]
        try:
            ack = cache.invalidate_tag(f"page:{key}")
        except BaseException as error:
            journal.error(f"short-lived editor: {error!r}")
            return
        if ack:
            journal.edit(key, version, time.monotonic())
            edits -= 1
            if edits <= 0:
                break
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)


def victim(plan: LoadPlan, lines: Any, out: Any) -> None:
    """Invalidates the reserved key and computes it, for ever as it were; it is killed meanwhile."""
    truth, journal = Truth(Path(plan.folder)), Journal(Path(plan.folder))
    cache = open_cache(plan)
    made = os.getpid() * 10_000_000

    def page(key: int) -> tuple[int, int, int]:
        journal.run(key, made, time.monotonic())
        out.write(f"{made}\n".encode())
        time.sleep(30.0)
        return key, truth[key], made

    function = cache.cached(ttl=600, tags=("page:{key}",), name="page0", near=0)(page)
    function.peek(0)
    out.write(b"ready\n")
    lines.readline()
    function.invalidate(RESERVED)
    function(RESERVED)


def main() -> None:
    plan = LoadPlan(**json.loads(sys.argv[1]))
    lines, out = os.fdopen(0, "rb", 0), os.fdopen(1, "wb", 0)
    match plan.kind:
        case "prefork":
            prefork(plan, lines, out)
        case "nursery":
            nursery(plan, lines, out)
        case "victim":
            victim(plan, lines, out)
        case _:
            work(plan, open_cache(plan), lines, out)


if __name__ == "__main__":
    main()
