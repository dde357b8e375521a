"""The report of a drill: the page and the document, for each way in which a drill can end."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.unit.drill_records import PHASES, sound, with_failures, with_noise, with_slow_call

from evercache.errors import DrillRefused, PackageMissing
from evercache.ops.drill.charts import _labels, chart
from evercache.ops.drill.document import FORMAT, Mark, Report, StepReport, as_json, assemble
from evercache.ops.drill.measure import measure
from evercache.ops.drill.page import as_page, files, headline, require, write
from evercache.ops.drill.plan import STEPS
from evercache.ops.drill.records import Written
from evercache.ops.drill.verdict import promises_of_step

FACTS = {
    "deployment": "<b>shop</b>",
    "started": "2026-11-25T17:36:00+00:00",
    "seconds": 85.0,
    "evercache": "0.1.0",
    "python": "3.11.7",
    "system": "Linux x86_64",
    "cores": 2,
    "servers": ["9.1.2"],
    "nodes": [{"name": "node-1", "address": "127.0.0.1:19231", "role": "master"}],
    "sentinels": [{"name": "10.0.0.1:26379", "address": "10.0.0.1:26379"}],
    "client_processes": 3,
    "readers_per_process": 4,
}
MARKS = (
    Mark(0.0, "fault", "node-1 is killed"),
    Mark(1.5, "promoted", "node-2 is the master"),
    Mark(5.0, "undone", "node-1 is started again"),
    Mark(15.0, "whole", "all is whole"),
)


def step(name: str = "kill-master", state: str = "done", written: Written | None = None) -> StepReport:
    found = STEPS[name]
    figures = None if written is None else measure(written, [PHASES])[0]
    promises = () if figures is None else tuple(promises_of_step(figures, 5.0, True, 19.0))
    marks = MARKS if figures is not None else ()
    texts = (found.title, found.does.format(node="node-1"), found.like, found.expect)
    return StepReport(name, *texts, "node-1", state, "", marks, figures, promises)


def report(*steps: StepReport, whole: bool = True, trouble: str = "") -> Report:
    return assemble(FACTS, steps, Written(), 5.0, whole, trouble)


class Page(HTMLParser):
    """Every tag is closed, and every id is there once."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


ENDS = {
    "kept": (report(step(written=sound())), "No visitor noticed."),
    "broken": (report(step(written=with_failures(sound(), 101.0, 4))), "1 of 7 promises was broken."),
    "unjudged": (
        report(step(written=with_noise(with_slow_call(sound()), 102.1, 102.35))),
        "The machine was too busy to judge.",
    ),
    "interrupted": (
        report(step(written=sound()), step("pause-master", "interrupted"), step("restart-all", "left out")),
        "Interrupted.",
    ),
    "failed": (report(step(state="failed", written=sound()), trouble="<it> broke."), "The drill could not go on."),
    "nothing": (report(step(state="skipped")), "Nothing was tried."),
}


@cache
def page_of(state: str) -> str:
    """Drawn once, as that takes a while."""
    return as_page(ENDS[state][0])


@pytest.mark.parametrize("state", ENDS)
def test_each_way_to_end(state: str) -> None:
    made, title = ENDS[state]
    assert made.state == state
    assert headline(made)[0] == title
    seen = Page(page_of(state))
    assert seen.open == []
    assert len(seen.ids) == len(set(seen.ids))
    assert title in seen.text
    assert "<b>shop</b>" in seen.text, "a name is text"
    found = json.loads(as_json(made))
    assert (found["format"], found["state"], found["whole"]) == (FORMAT, state, True)
    assert [one["state"] for one in found["steps"]] == [one.state for one in made.steps]


def test_both_files_are_written(tmp_path: Path) -> None:
    made = ENDS["nothing"][0]
    write(made, tmp_path)
    page, document = files(tmp_path)
    assert page.read_text() == page_of("nothing")
    assert document.read_text() == as_json(made)


@pytest.mark.parametrize("state", ENDS)
def test_the_page_needs_nothing_else(state: str) -> None:
    """It can be handed on as one file: no script, nothing that is loaded."""
    text = page_of(state)
    assert not re.search(r"<script|<link|<img|@import|src=|\son\w+=", text)
    assert not [link for link in re.findall(r'href="([^"]*)"', text) if not link.startswith("#")]
    assert not [link for link in re.findall(r"https?://[^\"' )<]+", text) if "www.w3.org" not in link]
    names = set(re.findall(r' id="([^"]+)"', text))
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)) <= {(name, "") for name in names} | {
        ("", name) for name in names
    }


def test_what_was_broken_is_said_where_it_was() -> None:
    text = Page(page_of("broken")).text
    assert "✘ broken" in text
    assert "4 in 1,900 reads: read: TimeoutError: no answer" in text
    assert "(promised: 0)" in text
    assert "✘" not in Page(page_of("kept")).text


def test_what_could_not_be_judged_is_said_first() -> None:
    made = ENDS["unjudged"][0]
    assert headline(made)[1] == (
        "1 fault was tried, and no promise was broken. Not judged: No page waits longer for the cache than its "
        "budget, beyond the time of its own function: the machine stood still for 250 ms of the slowest call's "
        "400 ms. Run the drill again when the machine has less to do. Everything was put back."
    )
    text = Page(page_of("unjudged")).text
    assert "? not judged" in text
    assert "✘" not in text
    assert json.loads(as_json(made))["promises"][1]["kept"] is None


def test_a_broken_promise_counts_more_than_one_that_could_not_be_judged() -> None:
    busy = with_noise(with_slow_call(sound()), 102.1, 102.35)
    made = report(step(written=with_failures(busy, 101.0, 4)))
    assert made.state == "broken"
    assert "Not judged: No page waits longer" in headline(made)[1]
    cut = report(step(written=with_noise(with_slow_call(sound()), 102.1, 102.35)), step("restart-all", "left out"))
    assert cut.state == "interrupted"
    assert "Until then no promise was broken. Not judged: " in headline(cut)[1]


def test_an_interrupted_drill_says_how_far_it_came() -> None:
    made = ENDS["interrupted"][0]
    assert headline(made)[1] == (
        "1 of 3 faults was tried to the end. Until then every promise was kept. Everything was put back."
    )
    text = Page(page_of("interrupted")).text
    assert "left out" in text
    assert "interrupted" in text


def test_what_could_not_be_put_back_is_no_success() -> None:
    made = report(step(written=sound()), whole=False)
    assert made.state == "broken"
    assert headline(made)[1].endswith("Not everything could be put back.")
    assert report(step(written=sound()), step("hand-over", "left out"), whole=False).state == "broken"


def test_an_interrupted_step_that_broke_a_promise_is_broken() -> None:
    made = report(step(state="interrupted", written=with_failures(sound(), 101.0, 1)))
    assert made.state == "broken"


def test_the_document_holds_numbers_as_numbers() -> None:
    found = json.loads(as_json(ENDS["kept"][0]))
    figures = found["steps"][0]["figures"]
    assert figures["promotion"] == 1.5
    assert figures["warmth"] is None
    assert len(figures["series"]) == 75
    assert found["steps"][0]["marks"][1] == {"at": 1.5, "kind": "promoted", "text": "node-2 is the master"}


def test_the_labels_of_a_chart_stand_beside_or_above_each_other() -> None:
    close = [Mark(0.0, "fault", ""), Mark(0.2, "promoted", ""), Mark(0.3, "undone", ""), Mark(18.9, "whole", "")]
    labels = _labels(close, -2.0, 19.0, 300.0)
    assert [label.row for label in labels] == [0, 1, 2, 0]
    assert [label.at_left for label in labels] == [True, True, True, False], "the last one would leave the picture"
    apart = [Mark(0.0, "fault", ""), Mark(8.0, "promoted", "")]
    assert {label.row for label in _labels(apart, -2.0, 19.0, 700.0)} == {0}


def test_a_chart_is_an_svg_without_a_size_of_its_own() -> None:
    made = step(written=sound())
    for narrow in (False, True):
        svg = chart(made, narrow=narrow)
        assert svg.startswith('<svg viewBox="0 0 ')
        assert "DejaVu" not in svg
        assert "other master 1.5 s" in svg
        assert len(svg) < 90_000


def test_a_step_that_was_cut_off_at_once_has_a_chart() -> None:
    short = replace(PHASES, began=100.0, fault=100.0, done=100.0, undone=100.1, whole=100.1, ended=100.1)
    figures = measure(Written(), [short])[0]
    made = step(state="interrupted")
    assert "<svg" in chart(replace(made, figures=figures, marks=(Mark(0.0, "fault", "x"),)))


def test_a_folder_that_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DrillRefused, match="choose another --out"):
        require(tmp_path / "file")
    require(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match=r"pip install 'evercache\[drill\]'"):
        require(tmp_path)
