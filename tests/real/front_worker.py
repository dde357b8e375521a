"""The fronts of sites, driven over two processes: one function of a version in shared memory, under each decorator.

`main`, with KIND URL FOLDER as arguments of its process, takes commands from its standard input, a line of JSON
each, and answers each with a line.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from tests.fleet import Truth
from tests.nursery import Program

from evercache.integrations.flask import Cache
from evercache.integrations.pybossa import Sentinel, provide, settings

__all__ = ["BEGAN", "GO", "HELD", "KINDS", "SLOW", "Front", "Other", "other"]

KINDS = ("memoize", "view", "pybossa")
#: Slots of the truth that steer computations: the key whose computation is to wait, which one does, which one may
#: go on, and how many milliseconds each takes. Keys are slots below.
HELD, BEGAN, GO, SLOW = 4000, 4001, 4002, 4003
#: Seconds. A machine that stands still for longer than the usual budget makes callers compute by themselves.
BUDGET = 10.0


class Front:
    """`call(key)` gives the version of the key as it was when the computation began."""

    def __init__(self, kind: str, url: str, truth: Truth) -> None:
        self._truth = truth
        make: Callable[[str], None] = getattr(self, f"_{kind}")
        self.call: Callable[[int], int]
        self.delete: Callable[[int], Any]
        self.delete_all: Callable[[], Any]
        self.close: Callable[[], None]
        make(url)

    def __repr__(self) -> str:
        return f"<Front {self.call}>"

    def _compute(self, key: int) -> int:
        truth = self._truth
        truth.ran(str(key))
        version = truth[key]
        time.sleep(truth[SLOW] / 1000)
        if truth[HELD] == key:
            truth[BEGAN] = key
            until = time.monotonic() + 20
            while truth[GO] != key and time.monotonic() < until:
                time.sleep(0.0005)
        return version

    def _site(self, url: str) -> tuple[Flask, Cache]:
        app = Flask("site")
        app.config.update(EVERCACHE_URL=url, SECRET_KEY="sixteen or more bytes", CACHE_KEY_PREFIX="fronts")
        app.config.update(CACHE_OPTIONS={"budget": BUDGET})
        cache = Cache(app)
        self.close = cache.cache.evercache.close
        return app, cache

    def _memoize(self, url: str) -> None:
        _, cache = self._site(url)

        @cache.memoize(timeout=600)
        def versions(key: int) -> int:
            return self._compute(key)

        self.call = versions
        self.delete = lambda key: cache.delete_memoized(versions, key)
        self.delete_all = lambda: cache.delete_memoized(versions)

    def _view(self, url: str) -> None:
        app, cache = self._site(url)

        @app.route("/versions/<int:key>")
        @cache.cached(timeout=600, tags=("versions",))
        def page(key: int) -> str:
            return str(self._compute(key))

        def call(key: int) -> int:
            response = app.test_client().get(f"/versions/{key}")
            assert response.status_code == 200
            return int(response.text)

        def delete(key: int) -> None:
            with app.app_context():
                cache.delete_cached(page, path=f"/versions/{key}")

        self.call, self.delete = call, delete
        self.delete_all = lambda: cache.invalidate_tag("versions")

    def _pybossa(self, url: str) -> None:
        names: dict[str, Any] = {"sentinel": Sentinel()}
        provide(names)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "_BUDGET", BUDGET)  # no setting of a site: its own time-outs bound it
            assert names["sentinel"].configure({"EVERCACHE_URL": url, "SECRET_KEY": "sixteen or more bytes"})

        @names["memoize"](timeout=600)  # type: ignore[untyped-decorator]
        def versions(key: int) -> int:
            return self._compute(key)

        self.call = versions
        self.delete = lambda key: names["delete_memoized"](versions, key)
        self.delete_all = lambda: names["delete_memoized"](versions)
        self.close = names["sentinel"].close

    def race(self, key: int, callers: int, at: float) -> list[int]:
        """So many threads call at one moment of the monotonic clock."""

        def one(_: int) -> int:
            time.sleep(max(0.0, at - time.monotonic()))
            return self.call(key)

        with ThreadPoolExecutor(callers) as pool:
            return list(pool.map(one, range(callers)))


class _Reader:
    """Reads one key over and over, on a thread of its own, and notes when each read began and what it got."""

    def __init__(self, front: Front, key: int) -> None:
        self.records: list[tuple[float, int]] = []
        self._front, self._key, self._go_on = front, key, True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self._go_on:
            began = time.monotonic()
            self.records.append((began, self._front.call(self._key)))
            time.sleep(0.001)

    def stop(self) -> list[tuple[float, int]]:
        self._go_on = False
        self._thread.join(10)
        return self.records


def main() -> None:
    """In the other process."""
    kind, url, folder = sys.argv[1:]
    front = Front(kind, url, Truth(Path(folder)))
    front.call(1)
    reader: _Reader | None = None
    answer: Any = "ready"
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        match command.pop("do"):
            case "call":
                answer = front.call(command["key"])
            case "race":
                answer = front.race(**command)
            case "read":
                reader, answer = _Reader(front, command["key"]), "reading"
            case "stop":
                assert reader is not None
                answer = reader.stop()
        print(json.dumps(answer), flush=True)
    front.close()


class Other:
    """The other process, as this one sees it."""

    def __init__(self, process: Program) -> None:
        self._process = process

    def tell(self, do: str, **more: Any) -> None:
        """Have it do something; `answer` waits for the end of that."""
        self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What it answers; it died where it says nothing."""
        line = self._process.stdout.readline()
        assert line, "the other process ended"
        return json.loads(line)

    def ask(self, do: str, **more: Any) -> Any:
        """Both at once."""
        self.tell(do, **more)
        return self.answer()


@contextmanager
def other(kind: str, url: str, truth: Truth) -> Iterator[Other]:
    """Start the other process, and end it."""
    process = Program("tests.real.front_worker:main", kind, url, str(truth.folder), strict=False)
    try:
        made = Other(process)
        assert made.answer() == "ready"
        yield made
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()
