"""The runbook has a section for every alarm: events, problems of `health()`, checks of the doctor, exit codes."""

from __future__ import annotations

import inspect
import logging
import re
from pathlib import Path

from evercache import connect
from evercache.observe import events
from evercache.observe.event import Begins, Ends, Event
from evercache.ops.cli import doctor, exits
from evercache.ops.doctor import registered

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
TABLE = TEXT.split("| you have | go to |")[1].split("\n\n")[0]
SECTIONS = re.findall(r"^## (.+)$", TEXT, re.M)


def named(text: str) -> set[str]:
    return set(re.findall(r"`([A-Za-z][\w-]*)`", text))


def test_every_event_that_means_trouble_leads_to_a_section() -> None:
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    trouble = {kind.__name__ for kind in kinds if kind.level >= logging.WARNING and not issubclass(kind, Ends)}
    assert len(trouble) >= 20
    assert trouble - named(TABLE) == set()
    begun = {kind.__name__ for kind in kinds if issubclass(kind, Begins)}
    assert begun - named(TABLE) == set()


def test_what_the_table_names_exists() -> None:
    known = {check.name for check in registered()} | set(vars(events))
    assert {name for name in named(TABLE) if name[0].isupper() or "-" in name} - known - {"OOM"} == set()


def test_every_check_of_the_doctor_leads_to_a_section() -> None:
    assert {check.name for check in registered()} - named(TABLE) == set()


def test_every_section_is_led_to_and_says_what_to_do() -> None:
    aims = re.findall(r"\]\(#([\w-]+)\)", TABLE)
    led = {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-"): name for name in SECTIONS}
    assert set(aims) <= set(led)
    assert set(led.values()) - {led[aim] for aim in aims} == {"First", "If nothing helps"}
    for name in SECTIONS:
        if name in ("First", "The process", "Not tonight", "Exit codes", "If nothing helps"):
            continue
        part = TEXT.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert re.findall(r"^\*\*(Means|Look|Do)\.\*\*", part, re.M) == ["Means", "Look", "Do"], name


def test_every_exit_code_is_there() -> None:
    part = TEXT.split("## Exit codes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| ([\d, ]+) \|", part, re.M)
    codes = {code for _, some in rows for code in some.split(", ")}
    written = {line.split("|")[1].strip() for line in (exits.__doc__ or "").splitlines() if line.startswith("| ")}
    assert codes == {code for code in written if code.isdigit() and code != "0"}
    of_doctor = {code for name, some in rows if name == "`doctor`, `check`" for code in some.split(", ")}
    assert of_doctor == {str(code) for code in doctor.CODES.values() if code}


def test_the_problems_that_it_quotes_are_those_of_health() -> None:
    source = inspect.getsource(connect)
    for words in ("no master is known", "is not followed yet", "cannot be read", "is used for"):
        assert words in source
        assert f'"{words}' in TABLE
