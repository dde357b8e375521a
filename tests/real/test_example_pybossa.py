"""The example site of PyBossa's kind, with either cache module: alike, without servers, and through a failover."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Deployment, Server, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "pybossa-like"
TOUR = Path(__file__).with_name("example_tour.py")
OURS, OLD = "from evercache.integrations.pybossa import *", "from crowd.module2013 import *"


def site(folder: Path, line: str) -> Path:
    """A copy of the example with this line in its cache module."""
    copy = folder / "site"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("*.sqlite*", "__pycache__"))
    module = copy / "crowd" / "cache" / "__init__.py"
    lines = module.read_text().splitlines()
    (place,) = (number for number, text in enumerate(lines) if text.startswith(OURS))
    lines[place] = line
    module.write_text("\n".join(lines) + "\n")
    return copy


@contextlib.contextmanager
def process(copy: Path, url: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Python in the folder of a site, on these servers; ended at the end."""
    environment = os.environ | {"EVERCACHE_URL": url, "PYTHONPATH": str(copy)}
    with (copy / f"{Path(command[-1]).name}.log").open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, *command],
            cwd=copy,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(5)
            except subprocess.TimeoutExpired:  # a worker of RQ waits for its server for ever
                started.kill()


def asked(tour: subprocess.Popen[str], line: str) -> dict[str, Any]:
    assert tour.stdin is not None
    assert tour.stdout is not None
    tour.stdin.write(f"{line}\n")
    tour.stdin.flush()
    answer = tour.stdout.readline()
    assert answer, "the tour has ended; its log is in the folder of the site"
    seen: dict[str, Any] = json.loads(answer)
    return seen


def test_one_line_decides() -> None:
    module = (EXAMPLE / "crowd" / "cache" / "__init__.py").read_text()
    _, statement = ast.parse(module).body  # beside the docstring
    assert ast.unparse(statement) == OURS
    assert f"# {OLD}" in module.splitlines()
    (line,) = (line for line in module.splitlines() if line.startswith(OURS))
    assert f"-{line}\n+{line.replace(OURS, OLD)}\n" in (EXAMPLE / "README.md").read_text()


def test_the_site_does_the_same_with_either_module(valkey: Server, tmp_path: Path) -> None:
    texts = []
    for name, line in (("ours", OURS), ("old", OLD)):
        valkey.cli("FLUSHALL")
        with process(site(tmp_path / name, line), valkey.url, str(TOUR)) as tour:
            seen = asked(tour, "work")
        statuses = {address: status for address, (status, _, _) in seen.items()}
        assert statuses == dict.fromkeys(seen, 200) | {"GET /project/nothing": 404, "eager": 429}
        text = {address: said for address, (_, _, said) in seen.items()}
        assert "Voices of birds" in text["GET / again"]
        assert '<b id="runs">1</b>' in text["GET /project/birds again"]
        assert "<b>1</b> answers" in text["GET /user/ann again"]
        assert "ann" not in text["GET /leaderboard"]
        assert '<a href="/user/ann">ann</a></td><td>1</td>' in text["GET /leaderboard again"], "a job did it"
        assert "ann gave an answer to birds" in text["GET /activity again"]
        assert 'data: {"user": "bob", "answer": "no"}' in text["GET /project/birds/stream"]
        assert text["eager"] == 20
        del text["GET /api/project/birds/newtask?user=ann"]  # any of them
        texts.append({address: re.sub(r"\d+:\d+:\d+", "", str(said)) for address, said in text.items()})
    assert texts[0] == texts[1]


def test_every_page_answers_without_any_server(tmp_path: Path) -> None:
    with (
        Deployment.start(replicas=1, sentinels=1, password="secret") as servers,
        process(site(tmp_path, OURS), servers.url, str(TOUR)) as tour,
    ):
        before = asked(tour, "work")
        for server in [*servers.sentinels, *servers.nodes]:
            server.kill()
        after = asked(tour, "no work")
    slowest = max(after, key=lambda address: float(after[address][1]))
    print(f"without servers: {sum(s for _, s, _ in before.values()):.2f} s before, then", end=" ")
    print(f"{sum(s for _, s, _ in after.values()):.2f} s; the slowest is {slowest}: {after[slowest][1]:.2f} s")
    statuses = {address: status for address, (status, _, _) in after.items()}
    assert statuses == dict.fromkeys(after, 200) | {"GET /project/nothing": 404}
    assert after["eager"][2] == 25, "nobody is refused while nobody counts"
    assert '<b id="runs">2</b>' in after["GET /project/birds again"][2], "an answer counts at once"
    assert "There is no news now" in after["GET /activity again"][2]
    assert "the servers are away" in after["GET /project/birds/stream"][2]
    assert after[slowest][1] < 20


@pytest.mark.long
@pytest.mark.parametrize(("line", "better"), [(OURS, True), (OLD, False)], ids=["ours", "2013"])
def test_a_master_dies_under_traffic(line: str, better: bool, tmp_path: Path) -> None:
    """SIGKILL, while people read, edit and answer, and a worker does the jobs."""
    copy = site(tmp_path, line)
    database = copy / "crowd.sqlite"
    with (
        Deployment.start(password="secret", sentinel_password="sentinel-secret") as servers,
        process(copy, servers.url, "traffic.py", "--json") as traffic,
    ):
        assert traffic.stdout is not None
        lines = [traffic.stdout.readline()]
        with process(copy, servers.url, "-m", "flask", "--app", "crowd", "worker"):
            lines.append(traffic.stdout.readline())
            master = servers.master()
            master.kill()
            servers.wait_new_master(master)
            lines += [traffic.stdout.readline() for _ in range(2)]
            traffic.send_signal(signal.SIGINT)
            lines += traffic.stdout.readlines()
            ended = time.monotonic()
            wait_for(lambda: rows(database, "SELECT count(*) FROM job WHERE done IS NULL") == [(0,)], 35)
            took, jobs = time.monotonic() - ended, rows(database, "SELECT count(*) FROM job")
    print(*lines, f"{jobs[0][0]} jobs, all done {took:.1f} s later", sep="")
    seen = json.loads(lines[-1])
    counted = rows(database, "SELECT user, count(*) FROM task_run GROUP BY user ORDER BY user")
    assert rows(database, "SELECT user, score FROM score ORDER BY user") == counted
    assert sum(count for _, count in counted) >= seen["answers"] > 10
    assert seen["edits"] > 10
    if better:
        assert (seen["failed"], seen["errors"], seen["stale"], seen["streams"]) == (0, {}, 0, 1)
        assert seen["events"] > 0
    else:
        assert seen["failed"] > 0
        assert seen["errors"]


def rows(database: Path, query: str) -> Sequence[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        return connection.execute(query).fetchall()
