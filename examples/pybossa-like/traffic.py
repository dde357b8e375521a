"""Visitors for the site, in threads: they read, answer and edit, and count what fails and what is old.

`python traffic.py` until Ctrl-C, a line each second; meanwhile kill servers. The requests go through Flask's test
client, so what is counted is what the application itself answers.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from flask import Flask, got_request_exception
from flask.testing import FlaskClient

from crowd import create_app
from crowd.samples import SAMPLES, fill

#: Seconds that a visitor looks at a page.
_PAUSE = 0.01


@dataclass(slots=True)
class Seen:
    """What the visitors saw. Guarded by: `lock`."""

    pages: int = 0
    failed: int = 0
    stale: int = 0
    edits: int = 0
    answers: int = 0
    events: int = 0
    streams: int = 0
    slowest: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)


class Traffic:
    """The visitors of one application."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.seen = Seen()
        self.lock = threading.Lock()
        self.over = threading.Event()
        #: What was acknowledged of each project: the number of its last edit, and of its answers.
        self.edited = dict.fromkeys(SAMPLES, 0)
        self.answered = dict.fromkeys(SAMPLES, 0)
        self.slowest_lately = 0.0
        got_request_exception.connect(self._raised, app)

    def _raised(self, _: Flask, exception: BaseException, **__: object) -> None:
        with self.lock:
            name = type(exception).__name__
            self.seen.errors[name] = self.seen.errors.get(name, 0) + 1

    def visit(self, client: FlaskClient, path: str, method: str = "GET", **told: Any) -> str | None:
        """One request: the text, or None where it failed."""
        began = time.monotonic()
        response = client.open(path, method=method, **told)
        took = time.monotonic() - began
        with self.lock:
            self.seen.pages += 1
            self.seen.failed += response.status_code != 200
            self.seen.slowest = max(self.seen.slowest, took)
            self.slowest_lately = max(self.slowest_lately, took)
        return response.text if response.status_code == 200 else None

    # -- the visitors, each in a thread of its own

    def reader(self, client: FlaskClient) -> None:
        """Looks at a page, and whether it knows what had been acknowledged before it was asked for."""
        name = random.choice(list(SAMPLES))
        edit, answers = self.edited[name], self.answered[name]
        page = random.choice([f"/project/{name}", "/", "/leaderboard", "/activity", "/user/visitor-1"])
        text = self.visit(client, page)
        if text is not None:
            shown = _shown(page, text, name)
            with self.lock:
                self.seen.stale += shown[0] < edit or shown[1] < answers

    def editor(self, client: FlaskClient) -> None:
        """Gives a project another title."""
        name = random.choice(list(SAMPLES))
        number = self.edited[name] + 1
        title = f"{SAMPLES[name][0]} (edit {number})"
        if self.visit(client, f"/api/project/{name}?user=editor", "PUT", json={"title": title}) is not None:
            self.edited[name] = number
            with self.lock:
                self.seen.edits += 1

    def contributor(self, client: FlaskClient) -> None:
        """Answers a question."""
        name, user = random.choice(list(SAMPLES)), f"visitor-{random.randrange(10)}"
        told = self.visit(client, f"/api/project/{name}/newtask?user={user}")
        if told is None or json.loads(told) is None:
            return
        answer = {"task_id": json.loads(told)["id"], "answer": random.choice(["yes", "no"])}
        if self.visit(client, f"/api/taskrun?user={user}", "POST", json=answer) is not None:
            with self.lock:
                self.answered[name] += 1
                self.seen.answers += 1

    def listener(self, client: FlaskClient) -> None:
        """Listens to the answers of a project, as a browser does; again when that ends."""
        with self.lock:
            self.seen.streams += 1
        response = client.get("/project/birds/stream", buffered=False)
        for part in response.iter_encoded():
            with self.lock:
                self.seen.events += part.startswith(b"data:")
            if self.over.is_set():
                break
        response.close()
        self.over.wait(1)

    # -- all together

    def run(self, seconds: float, readers: int, say: Callable[[str], None]) -> Seen:
        """For so long, or until `over` is set."""
        kinds = [self.listener, *[self.reader] * readers, self.editor, self.contributor, self.contributor]
        threads = [threading.Thread(target=self._again, args=(kind,), daemon=True) for kind in kinds]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while not self.over.wait(1) and time.monotonic() < end:
            seen = self.seen
            say(
                f"{time.strftime('%H:%M:%S')}  pages {seen.pages}  failed {seen.failed}  stale {seen.stale}  "
                f"answers {seen.answers}  events {seen.events}  slowest {self.slowest_lately * 1000:.0f} ms"
            )
            self.slowest_lately = 0.0
        self.over.set()
        for thread in threads[1:]:  # who listens may do so for long
            thread.join(15)
        return self.seen

    def _again(self, visitor: Callable[[FlaskClient], None]) -> None:
        client = self.app.test_client()
        while not self.over.wait(_PAUSE):
            visitor(client)


def _shown(page: str, text: str, name: str) -> tuple[float, float]:
    """The edit and the number of answers that a page shows of a project; infinite where it shows none."""
    if page == "/":
        row = text.partition(f'data-project="{name}"')[2].partition("</tr>")[0]
        numbers = re.search(r"(?:\(edit (\d+)\))?</a></td><td>(\d+)<", row)
    elif page.startswith("/project/"):
        numbers = re.search(r'(?:\(edit (\d+)\))?</h1>.*<b id="runs">(\d+)<', text, re.S)
    else:
        return math.inf, math.inf
    if numbers is None:
        raise ValueError(f"{page} is not as it should be: {text}")
    return int(numbers[1] or 0), int(numbers[2])


def main() -> None:
    """Visit until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--readers", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the last line is what was seen, as JSON")
    told = parser.parse_args()
    app = create_app({"RATE_LIMIT": 1_000_000})
    app.logger.setLevel(logging.CRITICAL)  # errors are counted, not told one by one
    with app.app_context():
        fill()
    traffic = Traffic(app)
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: traffic.over.set())
    seen = traffic.run(told.seconds, told.readers, lambda line: print(line, flush=True))
    print(json.dumps(asdict(seen)) if told.json else seen, flush=True)


if __name__ == "__main__":
    main()
