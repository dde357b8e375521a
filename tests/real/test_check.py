"""`evercache check`, as a monitoring system runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.servers import Server, free_port

from evercache.ops import deploy
from evercache.ops.cli import main
from evercache.ops.cli.commands import run

PERFDATA = re.compile(r"(?:[a-z]+=-?[0-9.]+(?:s|%|B|c)?;;;0(?: |$))+")


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, list[str]]:
    code = run(["check", *words])
    first, *more = capsys.readouterr().out.splitlines()
    return code, first, more


def test_everything_dead_is_critical_and_the_verdict_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    """It was 3, unknown, and the verdict was the last line."""
    code, first, _ = checked(capsys, f"redis://127.0.0.1:{free_port()}")
    assert code == 2
    assert first.startswith("EVERCACHE CRITICAL: no server answers")
    assert PERFDATA.fullmatch(first.split(" | ")[1])


def test_a_cache_that_is_meant_to_be_volatile_is_no_alarm(
    fresh_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh_server.cli("CONFIG", "SET", "maxmemory", "64mb")
    fresh_server.cli("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    fresh_server.cli("CONFIG", "SET", "save", "")
    url = f"redis://{fresh_server.address}"
    code, first, more = checked(capsys, url)
    assert code == 2
    assert first.startswith("EVERCACHE CRITICAL: persistence (")
    assert any(line.startswith("persistence: ") and " -> " in line for line in more)
    assert checked(capsys, url, "--ignore", "persistence")[0] == 0
    text = deploy.example_text() + "\n[intent]\nvolatile = true\n"
    (tmp_path / "cache.toml").write_text(text)
    code, first, more = checked(capsys, url, "--description", str(tmp_path / "cache.toml"))
    assert (code, more) == (0, [])
    assert first.startswith("EVERCACHE OK: data nodes: 1")
    figures = first.split(" | ")[1]
    assert PERFDATA.fullmatch(figures), figures
    assert "evictions=0.0" in figures


def test_a_password_that_the_server_refuses_is_unknown(
    fresh_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server runs, and nobody could look at it. It was critical: no server answers."""
    code, first, _ = checked(capsys, f"redis://nobody:wrong@{fresh_server.address}")
    assert code == 3
    assert first.startswith("EVERCACHE UNKNOWN: ")
    fresh_server.cli("ACL", "SETUSER", "little", "on", ">secret", "+hello")
    code, first, _ = checked(capsys, f"redis://little:secret@{fresh_server.address}")
    assert code == 3, first


def test_a_check_that_does_not_exist_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "redis://127.0.0.1:1", "--ignore", "persistense"]) == 3
    assert "no check is named persistense" in capsys.readouterr().err
