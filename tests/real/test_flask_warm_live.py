"""`flask cache warm` as a process: it is interrupted, and the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import Server, free_port, wait_for

SITE = """
import os, time
from flask import Flask
from evercache.integrations.flask import Cache

app = Flask(__name__)
app.config["SECRET_KEY"] = "sixteen or more bytes"
cache = Cache(app)


@cache.memoize(timeout=600)
def slow(n):
    time.sleep(0.05)
    with open(os.environ["RAN"], "ab", buffering=0) as file:
        file.write(b"%d\\n" % n)
    return n
"""
CALLS = 60


@pytest.mark.long
def test_an_interrupted_run_is_gone_on_with(valkey: Server, tmp_path: Path) -> None:
    (tmp_path / "site_of_test.py").write_text(SITE)
    (tmp_path / "calls").write_text("\n".join(map(str, range(CALLS))))
    ran = tmp_path / "ran"
    ran.touch()
    command = [
        sys.executable,
        "-m",
        "flask",
        "--app",
        "site_of_test",
        "cache",
        "warm",
        "calls",
        "-f",
        "slow",
        "-j",
        "2",
    ]
    environment = os.environ | {"EVERCACHE_URL": valkey.url, "RAN": str(ran)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_for(lambda: len(ran.read_bytes().split()) >= 5, 20, "the first calls")
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, told
    assert "stopped: run it again to go on" in told
    assert len(ran.read_bytes().split()) < CALLS
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=40)
    assert again.returncode == 0, again.stderr
    assert ", 0 failed" in again.stdout
    assert sorted(map(int, ran.read_bytes().split())) == list(range(CALLS)), "each once, over both runs"


def test_without_a_server_nothing_is_called(tmp_path: Path) -> None:
    (tmp_path / "site_of_test.py").write_text(SITE)
    ran = tmp_path / "ran"
    command = [
        sys.executable,
        "-m",
        "flask",
        "--app",
        "site_of_test",
        "cache",
        "warm",
        "-",
        "-f",
        "slow",
        "--patience",
        "0.3",
    ]
    environment = os.environ | {"EVERCACHE_URL": f"redis://127.0.0.1:{free_port()}", "RAN": str(ran)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, input="1\n2\n", capture_output=True, text=True, timeout=40
    )
    assert done.returncode == 1
    assert "no master can be reached" in done.stdout
    assert not ran.exists()
