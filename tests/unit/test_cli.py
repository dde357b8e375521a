"""The command line: messages and exit codes that need no server."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evercache import errors
from evercache.ops.cli import exits, main
from evercache.ops.cli.commands import _log
from evercache.ops.cli.show import as_json, as_tables, console
from evercache.ops.survey import NodeReport, SentinelReport, Survey
from evercache.protocol.types import Address

pytestmark = pytest.mark.usefixtures("empty_home")


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERCACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from evercache.ops.cli import main; sys.exit(main(['up']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"needs {missing}" in done.stderr
    assert "pip install 'evercache[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_runs_like_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "evercache", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"evercache, version {importlib.metadata.version('evercache')}\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_help_names_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "..." not in text.split("Commands:")[1], "no line is cut"
    for command in (
        "up",
        "down",
        "status",
        "logs",
        "kill",
        "freeze",
        "thaw",
        "start",
        "add-replica",
        "url",
        "doctor",
        "check",
        "list",
        "render",
    ):
        assert f"\n  {command} " in text
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "130 "):
        assert f" {code} " in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["url"],
        ["down"],
        ["status"],
        ["kill", "node-1"],
        ["start", "node-1"],
        ["add-replica"],
        ["logs", "node-1"],
        ["status", "--name", "default"],
    ],
)
def test_an_unknown_deployment(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "evercache: there is no deployment 'default': run `evercache up`\n"


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert main(["kill"]) == 2
    assert main(["url", "--name", "A B"]) == 2
    assert main(["status", "--url", "ftp://x"]) == 2
    assert main(["status", "--url", "redis://x", "--name", "y"]) == 2
    assert "not both" in capsys.readouterr().err


def test_no_server_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["up", "--server", str(tmp_path / "gone")]) == 4
    assert "check --server" in capsys.readouterr().err


def test_status_of_a_url_where_nobody_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--url", "redis://127.0.0.1:1"]) == 1
    seen = json.loads(capsys.readouterr().out)
    assert seen["nodes"][0]["state"] == "silent"
    assert seen["problems"]


@pytest.mark.parametrize("command", ["status", "doctor", "failover", "bench", "drill"])
def test_a_url_is_an_argument_or_an_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody remembers which command takes which: all take both, and both mean the same."""
    url = "redis://127.0.0.1:1"
    told = []
    for form in ([url], ["--url", url], [f"--url={url}"]):
        code = main([command, *form])
        out, err = capsys.readouterr()
        told.append((code, re.sub(r"[\d.]+ s|\d\d:\d\d:\d\d", "", out + err)))
        assert "Traceback" not in out + err
        assert "No such option" not in err
        assert "unexpected extra argument" not in err
    assert told[0] == told[1] == told[2]
    assert main([command, url, "--url", url]) == (3 if command == "doctor" else 2)
    assert "give the URL once" in capsys.readouterr().err
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "[URL]" in out
    assert "--url URL" in out


def test_exit_codes_are_those_that_are_documented() -> None:
    codes = {
        errors.URLError: 2,
        errors.DeploymentUnknown: 3,
        errors.ServerMissing: 4,
        errors.PortTaken: 5,
        errors.DiskFull: 6,
        errors.NotWhole: 7,
        errors.FailoverRefused: 8,
        errors.FilesChanged: 9,
        errors.DescriptionError: 2,
        errors.DeploymentError: 1,
        errors.ConnectionFailed: 1,
    }
    for kind, code in codes.items():
        assert exits.exit_code(kind("x")) == code
        assert f"| {code} |" in (exits.__doc__ or "")


def test_tables_show_what_a_server_says_as_plain_text() -> None:
    node = NodeReport("n", Address("h", 1), "denied", detail="[red]NOPERM[/red]")
    sentinel = SentinelReport("s", Address("h", 2), "silent", detail="no answer")
    seen = Survey((node,), (sentinel,), None)
    out = console()
    with out.capture() as captured:
        out.print(as_tables("x", seen))
    assert "[red]NOPERM[/red]" in captured.get()
    assert "not whole" in captured.get()
    assert json.loads(as_json("x", seen))["whole"] is False


def test_logs_follow_a_file_that_is_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "node-1.log"
    path.write_text("1\n2\n3\n")
    assert list(_log(path, 2, follow=False)) == ["2\n", "3\n"]
    assert list(_log(path, 0, follow=False)) == []
    following = _log(path, 1, follow=True)
    assert next(following) == "3\n"
    with path.open("a") as file:
        file.write("4\n")
    assert next(following) == "4\n"
    path.rename(tmp_path / "node-1.log.1")
    path.write_text("5\n")
    assert next(following) == "5\n"
