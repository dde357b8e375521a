"""A site to be warmed, the command that does it, and a visitor beside it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.nursery import Program, evercache

from evercache import Cache

SITE = """
import os, time
from evercache import Cache

cache = Cache(namespace="shop")
slow = float(os.environ.get("SLOW", "0"))
ran = os.open(os.environ["RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@cache.cached(ttl=3600)
def totals(n: int, lang: str = "en"):
    time.sleep(slow)
    if n < 0:
        raise ValueError("no such project")
    os.write(ran, b"%d\\n" % n)
    return {"id": n, "text": "such as a database gives " * 6}


@cache.cached(ttl=3600, cache_if=lambda value: value > 0)
def positive(n: int):
    return n
"""


class Warmed:
    """A folder with the site, its lists, and what its function was called with."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "shop_site.py").write_text(SITE)
        self.file = folder / "ran"
        self.file.touch()

    def list(self, count: int) -> None:
        """A list of so many calls."""
        (self.folder / "calls.jsonl").write_text("".join(f"[{n}]\n" for n in range(count)))

    def runs(self) -> Counter[int]:
        """How often the function ran, for each argument."""
        return Counter(map(int, self.file.read_bytes().split()))

    def begin(self, *arguments: str, slow: float = 0.0) -> Program:
        """`evercache warm`, under way."""
        return evercache(
            "warm",
            *arguments,
            cwd=self.folder,
            environ={"EVERCACHE_URL": self.url, "RAN": str(self.file), "SLOW": str(slow)},
        )

    def run(self, *arguments: str, slow: float = 0.0, timeout: float = 50.0) -> tuple[int, str, str]:
        """It, to its end: exit code, output, messages."""
        process = self.begin(*arguments, slow=slow)
        with ended(process):
            told, messages = process.communicate(timeout=timeout)
        return process.returncode, told, messages

    def told(self, *arguments: str, slow: float = 0.0, timeout: float = 50.0) -> dict[str, Any]:
        """What it says of itself as JSON."""
        code, told, messages = self.run(*arguments, "--json", slow=slow, timeout=timeout)
        assert told, (code, messages)
        document: dict[str, Any] = json.loads(told)
        return document | {"code": code}

    def stored(self) -> set[int]:
        """The arguments whose values are on the server."""
        with Cache(self.url, namespace="reader") as other:
            keys = other.master.scan_iter(match="shop:f:shop_site.totals(*", count=5000)
            return {int(key.decode().partition("(")[2].partition(",")[0]) for key in keys}


@contextlib.contextmanager
def ended(process: Program) -> Iterator[None]:
    """Its end, whatever happens."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


VISITOR = """
import os, sys, time
from evercache import Cache

cache = Cache(namespace="shop")


@cache.cached(ttl=3600, beta=0, name="page")
def page(n: int):
    return {"id": n, "text": "such as a database gives " * 6}


for n in range(100):
    page(n)
print("reads", flush=True)
number = 0
while True:
    times = []
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        number += 1
        began = time.perf_counter()
        page(number % 100)
        times.append(time.perf_counter() - began)
        time.sleep(0.004)
    print(*times, flush=True)
"""


class Visitor:
    """A process of the site that reads what is cached, and how long each of its reads took. A context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._times: list[float] = []

    def __enter__(self) -> Visitor:
        self._process = Program(VISITOR, environ={"EVERCACHE_URL": self._url})
        assert self._process.stdout.readline() == "reads\n"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._times += map(float, line.split())

    def times(self) -> list[float]:
        """Of the reads since it was asked the last time, in order of their length."""
        times, self._times = self._times, []
        return sorted(times)
