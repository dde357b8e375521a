"""The path of somebody new, word by word as the tutorial has it: empty folder, installation, ten lines of Flask."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server import free_port, wait_for

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
SECTION = TUTORIAL.partition("## A page of Flask, in ten lines\n")[2].partition("\n## ")[0]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


class User:
    """A shell in a folder of its own, with nothing but what was installed there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv/bin/python"
        kept = {
            name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "LANG") if name in os.environ
        }
        self.environment = kept | {
            "HOME": str(folder),
            "PATH": f"{self.python.parent}:/usr/bin:/bin",
            "XDG_STATE_HOME": str(folder / "state"),
        }

    def runs(self, *command: str, answer: str = "", code: int = 0) -> tuple[str, str]:
        """Run a command to its end; what it printed, and what it told."""
        done = subprocess.run(
            command,
            cwd=self.folder / "site",
            env=self.environment,
            input=answer,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        for text in (done.stdout, done.stderr):
            assert "Traceback" not in text
            assert "Warning" not in text
        return done.stdout, done.stderr


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    one = User(tmp_path_factory.mktemp("newcomer"))
    (one.folder / "site").mkdir()
    subprocess.run([sys.executable, "-m", "venv", one.folder / "venv"], check=True)
    (extras,) = re.findall(r"`pip install '\.(\[.+\])'` in the clone", SECTION)
    # As a user's pip is: with the settings of this machine's, which HOME hides.
    subprocess.run([one.python, "-m", "pip", "install", "--quiet", f"{ROOT}{extras}"], check=True)
    yield one
    subprocess.run(["evercache", "down", "--purge"], env=one.environment, check=False, capture_output=True)


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", SECTION, re.S)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def seen_by_others(secret: str, folder: Path) -> list[str]:
    """Processes with it among their arguments, and servers of this folder with it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            ours = str(folder).encode() in command
            if secret.encode() in command + ((process / "environ").read_bytes() if ours else b""):
                found.append(command.decode(errors="replace"))
    return found


def page_at(port: int) -> tuple[str, float]:
    """The page, and how long it took."""
    began = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        text: str = answer.read().decode()
    return text, time.monotonic() - began


def test_the_tutorial_word_by_word(user: User) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    (user.folder / "site/app.py").write_text(code)
    up, export, serve, _curl, doctor, failover, down = commands()

    out, told = user.runs(*up)
    assert told.splitlines()[-1].startswith("the URL to use")
    assert 'export EVERCACHE_URL="$(evercache url)"' in told
    assert export == ["export", "EVERCACHE_URL=$(evercache url)"]
    url, told = user.runs("evercache", "url")
    assert (url, told) == (out, "")
    for secret in re.findall(r"[0-9a-f]{32}", url):
        assert seen_by_others(secret, user.folder) == []
    user.environment["EVERCACHE_URL"] = url.strip()

    port = free_port()
    log = user.folder / "flask.log"
    with log.open("w") as file:
        site = subprocess.Popen(
            [*serve, "--port", str(port)],
            cwd=user.folder / "site",
            env=user.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: f":{port}" in log.read_text(), timeout=60, what="Flask to serve")
        wait_for(lambda: page_at(port) and page_at(port)[0] == page_at(port)[0], timeout=60, what="a cached page")
        kept, seconds = page_at(port)
        assert seconds < 1  # not computed

        out, told = user.runs(*doctor)
        assert "critical" not in out
        assert "sound, as far as can be seen" in out
        out, told = user.runs("evercache", "status")
        assert "node-1" in out  # the names that the other commands take
        assert "whole: everything runs and is in sync" in out

        out, told = user.runs(*failover, answer="y\n")
        assert "Nothing speaks against it" in told
        assert re.search(r"whole again after [\d.]+ s", told)
        assert page_at(port)[0] == kept

        user.runs(*down)
        assert page_at(port)[0].startswith("computed at")  # slow, and all the same there
        out, told = user.runs("evercache", "status", code=1)
        assert "node-1" in out
        user.runs("evercache", "failover", code=8, answer="y\n")
        assert url.strip() not in log.read_text()  # a URL in a log is a password in a log
        assert "Traceback" not in log.read_text()
    finally:
        site.terminate()
        site.wait(10)


def test_no_answer_is_no_yes(user: User) -> None:
    user.runs("evercache", "up")
    _, told = user.runs("evercache", "failover", code=2)
    assert "give --yes" in told
    user.runs("evercache", "down")
