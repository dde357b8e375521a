"""Several processes without a URL, as somebody new deploys them: each says that it is alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import free_port, release_port, wait_for

ROOT = Path(__file__).resolve().parents[2]
_SITE = """
import os
from evercache import Cache
cache = Cache(namespace="shop")

def application(environ, start):
    cache.get("a")
    start("200 OK", [])
    return [f"{os.getpid()} {cache.health().ok}".encode()]
"""
_FORK = """
import os
from evercache import Cache
cache = Cache(namespace="shop")
cache.set("a", 1)
if os.fork() == 0:
    cache.get("a")
    assert not cache.health().ok
    os._exit(0)
assert os.wait()[1] == 0
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "EVERCACHE_URL"}


def test_a_child_of_a_process_that_used_the_cache_says_so() -> None:
    """Without any configuration of logging, warnings go to the error output."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK], env=environment(), capture_output=True, text=True, timeout=30, check=True
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("evercache[shop]: no URL is configured, but the process that used the cache was forked")


def test_each_worker_of_gunicorn_says_so(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "site_of_two.py").write_text(_SITE)
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}"]
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, "site_of_two:application"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )

    def told() -> int:
        fetch = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}', timeout=5).read())"
        subprocess.run([sys.executable, "-c", fetch], capture_output=True, timeout=20, check=False)
        return log.read_text().count("evercache[shop]: no URL is configured, but gunicorn forks workers")

    try:
        wait_for(told, timeout=30, what="the first worker to warn")
    finally:
        server.terminate()
        server.wait(20)
        release_port(port)
    assert told() <= 2
