"""The verdict of the demo: what counts as slow, stale, warm."""

from __future__ import annotations

from pathlib import Path

import pytest

from evercache.errors import DemoFailed
from evercache.ops.demo.events import Event
from evercache.ops.demo.journal import (
    Call,
    Computation,
    Failure,
    Invalidation,
    Journal,
    Record,
    Stall,
    read_journal,
)
from evercache.ops.demo.judge import Verdict, Warmth, judge, warmth
from evercache.ops.demo.load import Sample
from evercache.ops.demo.picture import Panel, draw
from evercache.ops.demo.report import print_report, promises, write_json

UA = "carrier:UA"


def call(start: float, end: float, made: str, as_of: int = 0, ran: bool = False) -> Call:
    return Call(UA, UA, start, end, made, as_of, ran)


def computed(made: str, start: float, end: float) -> Computation:
    return Computation(UA, made, start, end, 3)


def verdict_of(*records: Record) -> Verdict:
    return judge([], records)


def test_own_computation_is_the_functions_time() -> None:
    verdict = verdict_of(computed("a", 1.01, 3.0), call(1.0, 3.05, "a", ran=True))
    assert verdict.beyond == pytest.approx(0.06)
    assert verdict.hit_ratio == 0


def test_waiting_for_another_process_is_the_functions_time() -> None:
    # It began half-way, and got the value 40 ms after it was ready.
    verdict = verdict_of(computed("a", 1.0, 3.0), call(2.0, 3.04, "a"))
    assert verdict.beyond == pytest.approx(0.04)
    assert verdict.hit_ratio == 0
    assert verdict.queries_saved == 3


def test_two_computations_one_after_the_other_and_overlapping() -> None:
    # The first one was invalidated half-way; a waiter sat through both.
    verdict = verdict_of(computed("a", 1.0, 2.0), computed("b", 1.5, 3.0), call(1.0, 3.1, "b"))
    assert verdict.beyond == pytest.approx(0.1)


def test_a_slow_hit_counts_whole_even_if_a_refresh_was_under_way() -> None:
    old, refresh = computed("a", 0.0, 0.5), computed("b", 1.0, 2.0)
    verdict = verdict_of(old, refresh, call(1.0, 1.9, "a"))
    assert verdict.beyond == pytest.approx(0.9)
    assert verdict.beyond_page == UA


def test_computations_of_other_pages_do_not_excuse() -> None:
    other = Computation("carrier:AA", "x", 1.0, 2.0, 3)
    assert verdict_of(other, computed("a", 1.9, 1.95), call(1.0, 2.0, "a")).beyond == pytest.approx(0.95)


def kept_of(*records: Record) -> dict[str, bool | None]:
    """Whether the promises about times were kept, by a word of their text."""
    found = promises(verdict_of(*records), (), ())
    return {name: one.kept for name in ("longer", "stale") for one in found if f" {name} " in one.text}


def test_what_the_machine_held_up_is_not_judged_and_the_rest_is() -> None:
    slow, busy = call(1.0, 1.4, "a"), Stall(1.1, 1.35)
    assert kept_of(slow) == {"longer": False, "stale": True}
    assert kept_of(slow, busy)["longer"] is None
    assert kept_of(call(1.0, 1.2, "a"), busy)["longer"] is True
    assert kept_of(call(1.0, 1.6, "a"), busy)["longer"] is False, "a break beyond the stall"
    assert kept_of(computed("a", 1.0, 1.4), call(1.0, 1.8, "a", ran=True), busy)["longer"] is False, (
        "the function had that stall"
    )
    old = [Invalidation(1, UA, 1.05, True), call(1.4, 1.41, "a")]
    assert kept_of(*old)["stale"] is False
    assert kept_of(*old, busy)["stale"] is None
    (found,) = (one for one in promises(verdict_of(slow, busy), (), ()) if one.kept is None)
    assert found.seen == "not judged: the machine stood still for 250 ms of 400 ms"


def test_stale_is_counted_from_the_first_missing_acknowledgement() -> None:
    edits = [Invalidation(1, UA, 10.0, True), Invalidation(2, UA, 11.0, True)]
    verdict = verdict_of(*edits, call(12.0, 12.1, "a", as_of=0))
    assert verdict.stale_reads == 1
    assert verdict.worst_staleness == pytest.approx(2.0)
    assert verdict_of(*edits, call(12.0, 12.1, "a", as_of=1)).worst_staleness == pytest.approx(1.0)
    assert verdict_of(*edits, call(12.0, 12.1, "a", as_of=2)).worst_staleness == 0


def test_a_read_that_began_before_the_acknowledgement_is_not_stale() -> None:
    verdict = verdict_of(Invalidation(1, UA, 10.0, True), call(9.9, 10.5, "a"))
    assert verdict.worst_staleness == 0


def test_a_read_within_the_limit_shows_in_the_worst_only() -> None:
    verdict = verdict_of(Invalidation(1, UA, 10.0, True), call(10.08, 10.09, "a"))
    assert verdict.stale_reads == 0
    assert verdict.worst_staleness == pytest.approx(0.08)


def test_edits_without_a_master_are_shown_apart() -> None:
    edits = [Invalidation(1, UA, 10.0, False), Invalidation(1, "network", 10.0, True)]
    verdict = verdict_of(*edits, call(13.0, 13.1, "a"))
    assert (verdict.edits, verdict.unacknowledged) == (1, 1)
    assert verdict.stale_reads == 0
    assert verdict.reads_before_unacknowledged == 1
    assert verdict.worst_before_unacknowledged == pytest.approx(3.0)


def test_other_tags_do_not_make_stale() -> None:
    assert verdict_of(Invalidation(1, "carrier:AA", 1.0, True), call(9.0, 9.1, "a")).worst_staleness == 0


def test_queries_saved_are_those_of_the_hits() -> None:
    verdict = verdict_of(computed("a", 0, 1), call(0, 1, "a", ran=True), call(2, 2.01, "a"), call(3, 3.01, "a"))
    assert (verdict.queries, verdict.queries_saved) == (3, 6)
    assert verdict.hit_ratio == pytest.approx(2 / 3)


def test_errors_are_what_the_clients_saw() -> None:
    samples = [
        Sample(1.0, 0.5, 200, edit=False),
        Sample(1.0, 0.7, 500, edit=False),
        Sample(2.0, 3.0, None, edit=True),
    ]
    verdict = judge(samples, [Failure(UA, "ConnectionError", 1.0, 1.1)])
    assert (verdict.requests, verdict.errors) == (3, 2)
    assert verdict.error_kinds == {"ConnectionError": 1, "no answer": 1}
    assert verdict.latency_max == 0.5
    assert verdict.seconds == pytest.approx(4.0)


def test_only_the_same_copy_is_warm() -> None:
    before = {"front": "a", UA: "b", "month:7": "c", "month:8": "d"}
    after = {"front": "a", UA: "computed anew", "month:8": "d"}
    assert warmth(before, after, 5.0, []) == Warmth(4, 2, 0)
    # Edited after the first look: no verdict on it. Edited before: the copy seen is a later one, it counts.
    edits = [Invalidation(1, UA, 6.0, True), Invalidation(2, "month:8", 4.0, True)]
    assert warmth(before, after, 5.0, edits) == Warmth(3, 2, 1)
    assert Warmth(0, 0, 0).share == 0


def test_journal_brings_back_what_was_written(tmp_path: Path) -> None:
    records: list[Record] = [
        call(1, 2, "a", 3, True),
        computed("a", 1, 2),
        Invalidation(1, UA, 2.5, False),
        Failure(UA, "TimeoutError", 1.0, 2.0),
    ]
    journal = Journal(tmp_path / "journal")
    for record in records:
        journal.write(record)
    journal.close()
    assert read_journal(tmp_path / "journal") == records
    assert read_journal(tmp_path / "none") == []


def test_damaged_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text('["Failure","a","b",1,2]\n["Failure","a"]\n')
    with pytest.raises(DemoFailed, match="line 2"):
        read_journal(tmp_path / "journal")


def good(**changes: object) -> Verdict:
    values: dict[str, object] = dict.fromkeys(Verdict.__dataclass_fields__, 0)
    values |= {"requests": 400, "seconds": 10.0, "edits": 5, "error_kinds": {}, "beyond_page": "front"}
    values |= {"warmth": Warmth(100, 98, 3), **changes}
    return Verdict(**values)  # type: ignore[arg-type]


HAPPENED = [Event("master killed", 1.0, 1.1)]


def test_promises_kept() -> None:
    assert all(promise.kept for promise in promises(good(), ["master killed"], HAPPENED))


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"errors": 1, "error_kinds": {"TimeoutError": 1}}, 0),
        ({"beyond": 0.251, "beyond_seen": 0.251}, 1),
        ({"stale_reads": 1, "worst_staleness": 0.2, "worst_staleness_seen": 0.2}, 2),
        ({"warmth": Warmth(100, 94, 0)}, 3),
        ({"warmth": None}, 3),
        ({"requests": 20}, 4),
        ({"requests": 0, "seconds": 0.0}, 4),
        ({"edits": 2, "unacknowledged": 2}, 4),
    ],
)
def test_each_promise_can_be_broken(changes: dict[str, object], broken: int) -> None:
    kept = promises(good(**changes), ["master killed"], HAPPENED)
    assert [number for number, promise in enumerate(kept) if not promise.kept] == [broken]


def test_a_run_in_which_something_did_not_happen_proves_nothing() -> None:
    kept = promises(good(), ["master killed", "replica added"], HAPPENED)
    assert [promise.seen for promise in kept if not promise.kept] == ["replica added did not happen"]


def test_report_and_picture(tmp_path: Path) -> None:
    import json

    from rich.console import Console

    samples = [Sample(100.0 + n / 10, 0.002 * (n + 1), 500 if n > 35 else 200, edit=False) for n in range(40)]
    verdicts = {"evercache": good(), "2013": good(errors=4, error_kinds={"TimeoutError": 4}), "none": good()}
    panels = [
        Panel(variant, 100.0, samples, [Event("master killed", 101.0, 101.2)], verdict)
        for variant, verdict in verdicts.items()
    ]
    folder = tmp_path / "a folder"
    draw(panels, folder / "report.png")
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    kept = promises(verdicts["evercache"], [], [])
    write_json(folder / "report.json", verdicts, kept, {"evercache": [("master killed", 1.0, 1.2)]})
    report = json.loads((folder / "report.json").read_text())
    assert report["runs"]["2013"]["errors"] == 4
    assert report["runs"]["evercache"]["warmth"] == {"before": 100, "after": 98, "edited": 3}
    assert [promise["kept"] for promise in report["promises"]] == [True] * 5
    console = Console(record=True, width=80, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_report(console, verdicts, kept, [folder / "report.png"])
    text = console.export_text()
    assert "errors of the 2013 design: (TimeoutError 4)" in text
    assert "98 = 98.0 %" in text
    assert "report.png" in text
