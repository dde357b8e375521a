"""The document on deployments: its commands run, its descriptions are sound, its settings are those of the code."""

from __future__ import annotations

import re
import shlex
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import pytest

from evercache.ops import deploy
from evercache.ops.cli import main
from evercache.ops.cli.commands import cli
from evercache.ops.deploy.description import Description, Secret
from evercache.ops.deploy.reading import type_of
from evercache.url import parse_url

TEXT = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)
    for line in block.splitlines()
]


def settings(kind: Any, where: str = "") -> list[tuple[str, str, str]]:
    """Name, default and meaning of each, in the order of the code."""
    found = []
    for one in fields(kind):
        hint, name = type_of(kind)[one.name], f"{where}{one.name}"
        inner = get_args(hint)[0] if get_origin(hint) is tuple else hint
        if is_dataclass(inner) and inner is not Secret:
            found += settings(inner, f"{name}[]." if inner is not hint else f"{name}.")
            continue
        default = ""
        if one.default is MISSING:
            default = "must be given"
        elif one.default not in (None, "", ()):
            default = f"`{str(one.default).lower() if isinstance(one.default, bool) else one.default}`"
        choices = ": " + ", ".join(f"`{choice}`" for choice in one.metadata.get("choices", ()))
        found.append((f"`{name}`", default, one.metadata["help"] + choices.rstrip(": ")))
    return found


def test_every_setting_is_in_the_table() -> None:
    table = TEXT.split("\n## Settings\n")[1]
    written = [
        tuple(cell.strip() for cell in row.split(" | ")) for row in re.findall(r"^\| (`.*) \|$", table, re.M)
    ]
    assert written == settings(Description)


def test_the_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in re.findall(r"^```toml\n(.*?)^```$", TEXT, re.M | re.S):
        name = re.match(r"# (\S+\.toml)\n", text)
        assert name is not None
        Path(name[1]).write_text(text)
    rendered = [command for command in COMMANDS if command.startswith("evercache render")]
    assert len(rendered) >= 8
    for command in rendered:
        line, _, target = command.partition(" > ")
        capsys.readouterr()
        assert main(shlex.split(line)[1:]) == 0, command
        if target:
            Path(target).write_text(capsys.readouterr().out)
    for folder, host in (("rendered", "cache-3"), ("box", "box"), ("compose", "cache-1"), ("pods", "shop-2")):
        assert (tmp_path / folder / host / "README.md").exists()
    assert (tmp_path / "rendered/ca/client.crt").exists()
    for role in ("application", "monitoring"):
        assert parse_url((tmp_path / f"rendered/urls/{role}.url").read_text().strip()).service == "shop"


def test_the_other_commands_exist() -> None:
    assert isinstance(cli, click.Group)
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "export":
            if "$(" not in words[1]:
                parse_url(words[1].partition("=")[2])
            continue
        assert words[0] == "evercache", command
        found = cli.commands[words[1]]
        if words[1] != "render":
            found.make_context(words[1], words[2:])


def test_the_readmes_of_hosts_name_commands_that_exist() -> None:
    from tests.unit.descriptions import PASSWORDS, described

    assert isinstance(cli, click.Group)
    files = deploy.render(described(tls={"enabled": True}), PASSWORDS, "systemd")
    readme = files["cache-1/README.md"]
    named = set(re.findall(r"(?:^|`)evercache ([a-z-]+)", readme, re.M))
    assert {"render", "doctor", "status", "failover"} <= named
    assert named <= set(cli.commands)
    scripts = re.findall(r"\bsh (\S+\.sh)", readme)
    assert scripts
    for name in scripts:
        assert f"cache-1/{name.rpartition('/')[2]}" in files
    for unit in re.findall(r"evercache-\w+-\w+", readme):
        assert f"cache-1/systemd/{unit}.service" in files
