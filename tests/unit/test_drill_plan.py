"""Which steps a drill has, on whose servers, and what signals do while it runs."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

import pytest

from evercache.errors import ConfigurationError
from evercache.ops.cli import main
from evercache.ops.cli.drill import drill
from evercache.ops.drill.interrupts import Interrupts, Left
from evercache.ops.drill.plan import ANYWHERE, LOCAL, STEPS, Options, chosen

DOCUMENT = Path(__file__).parents[2] / "docs" / "drill.md"


def test_the_usual_steps() -> None:
    assert tuple(step.name for step in chosen((), elsewhere=False)) == LOCAL
    assert tuple(step.name for step in chosen((), elsewhere=True)) == ANYWHERE
    assert tuple(step.name for step in chosen(("restart-all", "kill-master"), elsewhere=False)) == (
        "restart-all",
        "kill-master",
    )


def test_processes_are_ended_on_own_servers_only() -> None:
    for step in STEPS.values():
        if step.do is not None:
            with pytest.raises(ConfigurationError, match="servers of `evercache up` only"):
                Options(url="sentinel://h1/x", steps=(step.name,))
    assert {step.name for step in STEPS.values() if step.do is None} == set(ANYWHERE)


def test_every_step_can_be_put_back_and_is_told() -> None:
    for step in STEPS.values():
        assert (step.do is None) == (step.undo is None)
        for text in (step.does, step.done, step.undone):
            assert "{" not in text.format(node="node-1")


def test_the_document_has_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split("`")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert [name for name in rows if name in STEPS] == list(STEPS)
    assert main(["drill", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in STEPS)


def test_the_commands_of_the_document_are_understood() -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    lines = [shlex.split(line.partition(" #")[0]) for line in block.splitlines()]
    drills = [words[2:] for words in lines if words[:2] == ["evercache", "drill"]]
    assert len(drills) == len(lines) - 1
    for words in drills:
        drill.make_context("drill", list(words))
    options = {name for one in drill.params for name in one.opts if name.startswith("--")}
    assert options - {"--name"} == {word for words in drills for word in words if word.startswith("--")}


def test_the_first_signal_interrupts_and_the_next_ones_do_not() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(said.append) as interrupts:
        interrupts.open()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert ["is being put back first" in text for text in said] == [True]
        with pytest.raises(Left):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_comes_while_it_is_shut_is_not_forgotten() -> None:
    said: list[str] = []
    with Interrupts(said.append) as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            interrupts.open()
