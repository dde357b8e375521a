"""The page on warming: its commands run, in order, on its own module and lists; its options are all there are."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest
from tests.nursery import evercache
from tests.servers import Server

from evercache import Cache
from evercache.engine.hot import member
from evercache.ops.cli.warm import warm

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "warm.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)
    return str(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(block("python"))
    (tmp_path / "totals.jsonl").write_text(block("json"))
    (tmp_path / "totals.csv").write_text(block("csv"))
    (tmp_path / "days.jsonl").write_text('"2026-01-01"\n"2026-01-02"\n')
    (tmp_path / "ids.jsonl").write_text("1\n2\n")
    return tmp_path


def test_the_commands_of_the_page(folder: Path, valkey: Server) -> None:
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)).splitlines()
    assert len(lines) >= 6
    hot = member("shop.totals", "", (12,), {}), member("shop.users", "", (3,), {})
    with Cache(valkey.url, namespace="other") as other:
        other.master.zadd("shop~hot", dict.fromkeys(hot, time.time() / 3600))
    computed = []
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "evercache"
        given = None
        if "<" in arguments:
            at = arguments.index("<")
            given = (folder / arguments[at + 1]).read_text()
            arguments = arguments[:at]
        command = evercache(*arguments, "--no-probe", "--json", cwd=folder, environ={"EVERCACHE_URL": valkey.url})
        told, messages = command.communicate(given, timeout=50)
        assert command.returncode == 0, (line, messages)
        computed.append(int(re.findall(r'"computed": (\d+)', told)[0]))
    assert computed == [4, 2, 2, 2, 1, 1]


def test_every_option_is_in_the_table_and_nothing_else() -> None:
    table = TEXT.split("| option |")[1].split("\n\n")[0]
    rows = set(re.findall(r"--[a-z][a-z-]+", table))
    assert rows == {name for option in warm.params for name in option.opts if name.startswith("--")}
