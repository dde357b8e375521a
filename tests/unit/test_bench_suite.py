"""The arithmetic of `make bench`, and that its list, its modules and its page agree."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import markdown, picture
from benchmarks.__main__ import NAMES, main
from benchmarks.harness import Contestant, Scale, Timed, entered
from benchmarks.results import Figure, Result, Table, Target

ROOT = Path(__file__).parents[2]
RESULT = Result(
    "hit",
    "A hit",
    (Table("here", ("µs", "x"), (Figure("ours", (1.5, None), "ours"), Figure("theirs", (3.0, "?")))),),
    (Target("good", 1.0, 1.0), Target("bad", 1.01, 1.0), Target("unknown", None, 1.0, "ms")),
    ("a note",),
    2.5,
)


def test_a_result_survives_the_file() -> None:
    assert Result.of_json(json.loads(json.dumps(RESULT.as_json()))) == RESULT


def test_a_target_is_met_up_to_its_limit_and_unknown_without_a_figure() -> None:
    assert [target.met for target in RESULT.targets] == [True, False, None]


def test_contestants_take_turns_in_an_order_that_rotates() -> None:
    timed = Timed(["a", "b", "c"])
    order = []
    for name in timed.turns(Scale(True, 2, 2)):
        order.append(name)
        timed.add(name, 1.0)
    assert "".join(order) == "abcbcacababc"
    assert [len(times) for one in timed.rounds for times in one.values()] == [2] * 6


def test_a_ratio_is_taken_inside_the_round() -> None:
    """The machine is ten times slower in the second round: that changes no ratio."""
    timed = Timed(["a", "b"])
    timed.rounds = [{"a": [1.0] * 4, "b": [2.0] * 4}, {"a": [10.0] * 4, "b": [20.0] * 4}]
    assert timed.ratio("b", "a") == 2.0
    assert timed.ratio("b", "missing") is None


def test_a_peer_that_cannot_be_entered_is_left_out_with_a_word_and_ours_is_not() -> None:
    @contextlib.contextmanager
    def fails(server: Any) -> Iterator[Any]:
        raise RuntimeError("no")
        yield

    notes: list[str] = []
    server: Any = SimpleNamespace()
    with contextlib.ExitStack() as stack:
        peers = [Contestant("absent", fails, needs=("no_such_module",)), Contestant("broken", fails)]
        assert entered(peers, server, stack, notes) == {}
        assert [note.split(" (")[0] for note in notes] == ["left out: absent", "left out: broken"]
        with pytest.raises(RuntimeError):
            entered([Contestant("evercache", fails, "ours")], server, stack, notes)


def test_every_measurement_has_a_module_and_a_line_on_the_page() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", page, re.M)) == NAMES
    assert all(importlib.util.find_spec(f"benchmarks.measures.{name}") for name in NAMES)


def test_an_unknown_measurement_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])
    assert "no measurement 'nothing'" in capsys.readouterr().err


def test_the_page_of_figures_says_what_was_not_met(tmp_path: Path) -> None:
    document = {"machine": {"cores": 2, "packages": {"redis": "1"}}, "seconds": 3.0, "results": [RESULT.as_json()]}
    markdown.write(document, tmp_path / "FIGURES.md")
    text = (tmp_path / "FIGURES.md").read_text(encoding="utf-8")
    assert "| hit | bad | 1.01x | 1x | **not met** |" in text
    assert "| **ours** | 1.50 | - |" in text


def test_every_label_of_the_picture_is_whole_and_ours_have_one_colour() -> None:
    """The first that a visitor sees. The names are those of the committed figures, and longer ones."""
    document = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    for longer in ("", " of a name that is long"):
        for result in document["results"]:
            for figure in (one for table in result["tables"] for one in table["figures"]):
                if figure["name"].startswith("dogpile"):
                    figure["name"] += longer
        canvas = picture.make(document)
        assert canvas is not None
        width, height = canvas.get_size_inches() * canvas.dpi
        boxes = []
        for axes in canvas.axes:
            for text in axes.texts:
                box = text.get_window_extent()
                assert 0 < box.x0 < box.x1 < width, text
                assert 0 < box.y0 < box.y1 < height, text
                boxes.append((box, text.get_text()))
                if text.get_text().startswith("evercache"):
                    assert text.get_color() == picture.OURS
        overlaps = [(a, b) for i, (one, a) in enumerate(boxes) for other, b in boxes[:i] if one.overlaps(other)]
        assert overlaps == []
    ours = {figure["name"] for r in document["results"] for t in r["tables"] for figure in t["figures"]}
    for name in ours:
        kinds = {
            f["kind"] for r in document["results"] for t in r["tables"] for f in t["figures"] if f["name"] == name
        }
        assert not name.startswith("evercache for") or kinds == {"ours"}, name
