"""Sites under uWSGI and gunicorn as they are deployed: the application is imported, then the workers are forked."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Deployment, free_port, release_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
UWSGI = Path(sys.executable).with_name("uwsgi")
#: The workers of each server, and its command line.
WORKERS = 2
SERVERS = {
    "uwsgi": ["--processes", "2", "--threads", "2"],
    "uwsgi-master": ["--processes", "2", "--threads", "2", "--master"],
    # Not without a master: uWSGI would run the hooks in the first worker as well, which did not fork, and crash it.
    "uwsgi-master-hooks": ["--processes", "2", "--threads", "2", "--master", "--py-call-osafterfork"],
    "uwsgi-lazy": ["--processes", "2", "--threads", "2", "--lazy-apps"],
    "uwsgi-master-lazy": ["--processes", "2", "--threads", "2", "--master", "--lazy-apps"],
    "gunicorn": ["--workers", "2", "--threads", "2"],
    "gunicorn-preload": ["--workers", "2", "--threads", "2", "--preload"],
}


class Site:
    """One application server with its workers, in a process group of its own."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self._port = free_port()
        self._log = folder / "server.log"
        options = SERVERS[name]
        if name.startswith("uwsgi"):
            command = [
                str(UWSGI), "--http-socket", f"127.0.0.1:{self._port}", "--module", "tests.real.served_site",
                "--virtualenv", sys.prefix, "--pythonpath", str(ROOT), "--need-app", "--die-on-term", *options,
            ]  # fmt: skip
        else:
            command = [
                sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self._port}", "--graceful-timeout", "2",
                *options, "tests.real.served_site:application",
            ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "EVERCACHE_URL": url, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ask(self, key: str, path: str = "/", timeout: float = 20.0) -> dict[str, Any]:
        """What one worker says: the one that takes the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            connection.request("GET", f"{path}?{key}")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def ask_all(self, key: str, seconds: float = 15.0) -> dict[int, dict[str, Any]]:
        """The newest answer of every worker."""
        answers: dict[int, dict[str, Any]] = {}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = self.ask(key)
                answers[answer["pid"]] = answer
                if len(answers) == WORKERS:
                    return answers
            time.sleep(0.01)
        raise TimeoutError(f"{len(answers)} of {WORKERS} workers answered; {self.log()[-2000:]}")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        release_port(self._port)


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Site, Deployment]]:
    name: str = request.param
    if name.startswith("uwsgi") and not UWSGI.exists():
        pytest.skip("uWSGI is not installed: pip install 'evercache[uwsgi]' (it is built from source)")
    if name.startswith("gunicorn") and importlib.util.find_spec("gunicorn") is None:
        pytest.skip("gunicorn is not installed")
    with Deployment.start() as deployment:
        site = Site(name, deployment.url, tmp_path)
        try:
            yield site, deployment
        except BaseException:
            print(site.log()[-4000:])
            raise
        finally:
            site.close()


def _hears(answer: dict[str, Any]) -> bool:
    """Whether the worker has a background of its own that hears the log of invalidations."""
    return answer["tail_age"] is not None and answer["tail_age"] < 2


def test_every_worker_hears_the_log_and_follows_a_failover(site: tuple[Site, Deployment]) -> None:
    server, deployment = site
    first = server.ask_all("before", 30)

    def all_well() -> bool:
        answers = server.ask_all("before")
        return all(one["ok"] and _hears(one) and not one["computed"] for one in answers.values())

    time.sleep(2.5)  # what a worker inherited is outdated by now
    wait_for(all_well, 10, "every worker to hear the log")
    assert len({one["value"] for one in server.ask_all("before").values()}) == 1, "one entry for all workers"
    assert any(server.ask("gone", "/delete")["done"] for _ in range(2))
    old = deployment.master()
    old.kill()
    began = time.monotonic()
    new = deployment.wait_new_master(old)

    def all_follow() -> bool:
        answers = server.ask_all("before")
        return all(
            one["master"] == f"127.0.0.1:{new.port}" and one.get("raw") and "error" not in one
            for one in answers.values()
        )

    wait_for(all_follow, 10, "every worker to follow the new master")
    print(f"followed after {time.monotonic() - began:.1f} s")

    def stored() -> bool:
        server.ask_all("after")
        return not any(one["computed"] for one in server.ask_all("after").values())

    wait_for(stored, 10, "values to be stored at the new master")
    time.sleep(2.5)
    assert all(_hears(one) for one in server.ask_all("after").values())
    assert set(server.ask_all("after")) == set(first), "no worker was replaced"


def test_an_invalidation_in_one_worker_is_obeyed_in_the_others(site: tuple[Site, Deployment]) -> None:
    server, _ = site
    server.ask_all("key", 30)
    for turn in range(10):
        server.ask_all("key")
        before = server.ask("key")["value"]
        assert server.ask("key", "/delete")["done"]
        assert [one["computed"] for one in server.ask_all("key").values()].count(True) <= 1
        after = {one["value"] for one in server.ask_all("key").values()}
        assert len(after) == 1, turn
        assert before.startswith("key by")
