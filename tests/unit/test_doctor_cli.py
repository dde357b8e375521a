"""The command `doctor` on facts in files: what it prints, and the exit codes that monitoring reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.doctor_facts import client, config, group, node, sound

from evercache.ops.cli import main
from evercache.ops.cli.doctor_show import doctor_as_tables
from evercache.ops.doctor import Facts, examine, save
from evercache.ops.doctor.registry import is_command

pytestmark = pytest.mark.usefixtures("no_deployment")


@pytest.fixture
def no_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERCACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EVERCACHE_URL", raising=False)


def silent(facts: Facts) -> Facts:
    nodes = tuple(replace(one, error="silent") for one in facts.nodes)
    return replace(facts, nodes=nodes, sentinels=tuple(replace(one, error="silent") for one in facts.sentinels))


def refusing(facts: Facts) -> Facts:
    """The nodes are dead, and the sentinels do not take the password."""
    sentinels = tuple(replace(one, error="WRONGPASS", refused=True) for one in facts.sentinels)
    return replace(silent(facts), sentinels=sentinels)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda facts: facts, 0, "sound, as far as can be seen: 34 of 34 checks are fine"),
        (client(connect_timeout=9.0), 1, "1 warning; 33 of 34 checks are fine"),
        (config(0, {"masterauth": ""}), 2, "1 critical; 33 of 34 checks are fine"),
        (silent, 2, "critical: no server answers (silent)"),
        (refusing, 3, "could not look: WRONGPASS"),
        (lambda facts: replace(facts, nodes=(), sentinels=()), 3, "could not look: no server was asked"),
    ],
)
def test_exit_codes(
    change: object, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(change)
    save(change(sound()), tmp_path / "facts.json")
    assert main(["doctor", "--from", str(tmp_path / "facts.json")]) == code
    assert said in capsys.readouterr().out
    assert main(["doctor", "--from", str(tmp_path / "facts.json"), "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == ("sound", "warning", "critical", "unseen")[code]
    assert len(document["checks"]) == 34


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "No such option"),
        (["memory://"], "memory:// has no servers"),
        (["nonsense"], "no scheme"),
        (["--from", "none.json"], "cannot be read"),
        (["redis://127.0.0.1:1", "--from", "none.json"], "give one of"),
        (["--name", "nowhere"], "there is no deployment 'nowhere'"),
        ([], "there is no deployment 'default'"),
        (["--settings", "none.py"], "there is no file"),
    ],
)
def test_what_cannot_be_looked_at_is_no_fault_of_the_servers(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 would page somebody for a typing error."""
    assert main(["doctor", *arguments]) == 3
    assert said in capsys.readouterr().err


def test_settings_whose_code_fails_tell_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings_local.py"
    file.write_text("raise RuntimeError('hunter2')\n")
    assert main(["doctor", "--settings", str(file)]) == 3
    err = capsys.readouterr().err
    assert "RuntimeError" in err
    assert "hunter2" not in err


def shown(facts: Facts, width: int, *, verbose: bool = False) -> str:
    console = Console(width=width, record=True, file=None, highlight=False)
    with console.capture() as out:
        console.print(doctor_as_tables(facts, examine(facts), verbose=verbose), crop=False)
    return out.get()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_it_is_readable_at_any_width(width: int) -> None:
    facts = sound()
    for place in range(3):
        facts = group(place, {"parallel-syncs": "9"})(facts)
    facts = config(2, {"masterauth": ""})(node(1, error="it does not answer")(replace(facts, hosts=())))
    text = shown(facts, width)
    # Commands are not broken, as they are to be copied.
    assert all(len(line.rstrip()) <= width or is_command(line.strip()) for line in text.splitlines())
    plain = " ".join(text.split())
    assert plain.index("● critical") < plain.index("▲ warning"), "the gravest first"
    commands = [line.strip() for line in text.splitlines() if is_command(line.strip())]
    assert [line for line in commands if "parallel-syncs" in line] == [
        f"valkey-cli -h 10.0.0.{host} -p 26379 SENTINEL SET shop parallel-syncs 1" for host in (1, 2, 3)
    ]
    assert "10.0.0.2:6379: it does not answer" in plain
    assert "a shell shows it: run `evercache doctor --host --save FILE`" in plain
    assert "reboot-period *" in plain
    assert "silent servers" in plain


def test_all_that_is_fine_is_shown_when_asked_for() -> None:
    text = shown(sound(), 120, verbose=True)
    assert text.count("✓") == 34
    assert shown(sound(), 120).count("✓") == 0


def test_what_a_server_says_is_not_taken_for_markup() -> None:
    facts = config(1, {"daemonize": "yes", "x": "[bold]"})(sound())
    facts = node(1, info={**facts.nodes[1].info, "config_file": "/etc/[red]x[/red].conf"})(facts)
    assert "/etc/[red]x[/red].conf" in shown(facts, 160)
