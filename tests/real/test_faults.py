"""Each fault of the matrix once, in a short form, under one of the three kinds of load.

The figures are judged by `make faults`. Here nothing may be lost, raised or hang, and the bounds of time are
wide enough for a machine that does other things as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.faults.fleet import LOADS
from tests.faults.judge import Figures
from tests.faults.matrix import CATALOG, Timing, run_cell, run_on
from tests.faults.stage import Stage

TIMING = Timing(calm=0.3, after=0.3, quick=True, ease=3)
#: What a busy machine may add to a call, and to hearing of an invalidation (s).
BUSY = 1.0

#: Their like is tried in another form.
ONLY_IN_THE_MATRIX = {
    "nothing",
    "both replicas killed",
    "replica 1 s behind",
    "replica's link to the master silent",
    "master closes connections",
    "replica closes connections",
    "replica drips",
    "replica silent",
    "a name does not resolve",
    "master frozen briefly",
    "one sentinel dead",
    # Its issuers are killed while a superseded master still acknowledges: see docs/faults.md for what is lost then.
    "editors killed around a failover",
    "50 threads and a frozen master",
    "reads denied",
    "replica answers garbage",
    "replica answers slowly",
    "noreplicas",
}
NAMES = sorted(set(CATALOG) - ONLY_IN_THE_MATRIX)
#: The loads by turns, the same for a fault in every process.
CASES = [(name, LOADS[index % 3]) for index, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def stages() -> Iterator[list[Stage]]:
    """One deployment that is used again while it can be mended."""
    held: list[Stage] = []
    yield held
    for stage in held:
        stage.close()


def usual(held: list[Stage]) -> Stage:
    """The deployment, whole."""
    if held:
        try:
            held[0].mend(10)
            return held[0]
        except TimeoutError:
            held.pop().close()
    held.append(Stage.open(failover_timeout_ms=1500))
    return held[0]


@pytest.mark.parametrize(("name", "load"), CASES, ids=lambda text: re.sub(r"\W+", "-", text))
def test_a_fault(stages: list[Stage], name: str, load: str) -> None:
    fault = CATALOG[name]
    alone = fault.password or fault.options or fault.named is not None or name == "coordinated failover"
    if fault.repeats and not alone:
        figures = run_on(usual(stages), fault, load, TIMING, groups="a")
    else:
        figures = run_cell(fault, load, TIMING)
    check(figures)


def check(figures: Figures) -> None:
    bounds = CATALOG[figures.fault].bounds
    assert figures.errors == []
    assert figures.hung == 0
    assert figures.lost == 0
    assert figures.undelivered == 0
    assert figures.reads_in_fault > 50
    assert figures.beyond < bounds.beyond + BUSY, figures.beyond_where
    assert figures.stale < bounds.stale + BUSY, figures.stale_where
    if bounds.stale_cut_off is not None:
        assert figures.stale_cut_off < bounds.stale_cut_off + BUSY
