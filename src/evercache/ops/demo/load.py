"""The readers and editors of the site: plain HTTP, a bounded rate, everything noted.

A reader asks for a page, waits for it, and asks for the next one when its turn comes: so a site that is slow
serves less, and a page's latency is what this reader waited. Every request has a connection of its own.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from urllib.parse import urlencode

from evercache.ops.demo.data import FLIGHTS
from evercache.ops.demo.pages import Page
from evercache.process import new_lock

__all__ = ["Load", "LoadOptions", "Sample"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How much load; rates are per second, of all readers (editors) together."""

    readers: int = 12
    editors: int = 2
    reads: float = 40.0
    edits: float = 0.5
    timeout: float = 20.0
    #: Seconds in which the readers arrive, one after the other.
    ramp: float = 3.0
    seed: int = 2013


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as its client saw it; times in seconds of the monotonic clock."""

    start: float
    seconds: float
    #: None when there was no answer at all.
    status: int | None
    edit: bool
    hit: bool = False
    acknowledged: bool = True

    @property
    def failed(self) -> bool:
        """Whether the client got something else than what it asked for."""
        return self.status != 200


class Load:
    """Readers and editors, one thread each. `_lock` guards the samples."""

    def __init__(
        self, port: int, carriers: Sequence[str], routes: Sequence[str], options: LoadOptions | None = None
    ) -> None:
        self._port = port
        self._options = options or LoadOptions()
        self._pages, self._weights = _popularity(carriers, routes)
        self._samples: list[Sample] = []
        self._lock = new_lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"<Load {len(self._samples)} requests, {len(self._threads)} threads>"

    def start(self) -> None:
        """Begin."""
        options = self._options
        for number in range(options.readers + options.editors):
            editor = number >= options.readers
            period = options.editors / options.edits if editor else options.readers / options.reads
            self._threads.append(
                threading.Thread(
                    target=self._run, args=(number, editor, period), name=f"load-{number}", daemon=True
                )
            )
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Sample]:
        """Let the requests under way finish; every request made, in the order of their start."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._options.timeout + 5)
        with self._lock:
            return sorted(self._samples, key=lambda sample: sample.start)

    def give_up(self) -> None:
        """Send nothing more, wait for nobody."""
        self._stop.set()

    def _run(self, number: int, editor: bool, period: float) -> None:
        chance = random.Random(f"{self._options.seed}/{number}")
        turn = time.monotonic() + self._options.ramp * number / len(self._threads) + chance.random() * period
        while not self._stop.wait(max(0.0, turn - time.monotonic())):
            sample = self._edit(chance) if editor else self._read(chance)
            with self._lock:
                self._samples.append(sample)
            # Turns that were missed are not made up for: a person does not ask twice as fast afterwards.
            turn = max(turn + period * (0.5 + chance.random()), time.monotonic())

    def _read(self, chance: random.Random) -> Sample:
        page = chance.choices(self._pages, cum_weights=self._weights)[0]
        start = time.monotonic()
        status, headers, _ = self._request("GET", page.path, None)
        hit = headers.get("x-hit") == "1"
        return Sample(start, time.monotonic() - start, status, edit=False, hit=hit)

    def _edit(self, chance: random.Random) -> Sample:
        flight = chance.randrange(1, FLIGHTS + 1)
        form = urlencode({"dep_delay": chance.randrange(-10, 120), "arr_delay": chance.randrange(-30, 150)})
        start = time.monotonic()
        status, _, body = self._request("POST", f"/flight/{flight}", form)
        acknowledged = status == 200 and bool(json.loads(body)["acknowledged"])
        return Sample(start, time.monotonic() - start, status, edit=True, acknowledged=acknowledged)

    def _request(self, method: str, path: str, form: str | None) -> tuple[int | None, dict[str, str], bytes]:
        headers = {"Connection": "close"}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._options.timeout)
        try:
            connection.request(method, path, form, headers)
            response = connection.getresponse()
            body = response.read()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, body
        except (OSError, http.client.HTTPException):
            return None, {}, b""
        finally:
            connection.close()


def _popularity(carriers: Sequence[str], routes: Sequence[str]) -> tuple[list[Page], list[float]]:
    """All pages with cumulated weights: some are read all the time, most now and then (Zipf)."""
    pages = [Page("front"), Page("leaderboard")]
    weights = [22.0, 13.0]
    groups: tuple[tuple[str, Sequence[str], float], ...] = (
        ("carrier", carriers, 20.0),
        ("month", [str(month) for month in range(1, 13)], 15.0),
        ("route", routes, 30.0),
    )
    for kind, names, share in groups:
        total = sum(1 / (rank + 1) for rank in range(len(names)))
        for rank, name in enumerate(names):
            pages.append(Page(kind, name))
            weights.append(share / (rank + 1) / total)
    return pages, list(accumulate(weights))
