"""The document on the doctor says what its registry and its command say."""

from __future__ import annotations

import re
from pathlib import Path

from evercache.ops.cli import doctor as command
from evercache.ops.doctor import registered

TEXT = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """The cells of the tables whose first cell is code."""
    found = re.findall(r"^\| (`[a-z-]+` \|.*) \|$", text, re.M)
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)] for row in found]


def test_the_tables_are_those_of_the_registry() -> None:
    written = [tuple(row) for row in rows(TEXT)]
    assert written == [(f"`{c.name}`", c.severity.name, c.title, c.why, c.mend) for c in registered()]


def test_each_table_has_the_checks_of_its_subject() -> None:
    parts = re.split(r"^### ", TEXT, flags=re.M)[1:]
    found = {part.split("\n")[0].lower(): [row[0].strip("`") for row in rows(part)] for part in parts}
    expected: dict[str, list[str]] = {}
    for check in registered():
        expected.setdefault(check.subject, []).append(check.name)
    assert found == expected


def test_the_exit_codes() -> None:
    table = TEXT.split("## Exit codes")[1].split("\n## ")[0]
    codes = [int(code) for code in re.findall(r"^\| (\d) \|", table, re.M)]
    assert codes == sorted(set(command.CODES.values()))
    assert command.doctor.help is not None
    for code in codes:
        assert re.search(rf"^ *{code}  \w", command.doctor.help, re.M)


def test_every_option_is_named() -> None:
    options = {name for one in command.doctor.params for name in one.opts if name.startswith("--")}
    assert options - {"--name", "--verbose"} <= set(re.findall(r"--[a-z]+", TEXT))
