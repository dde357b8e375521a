"""The truths that processes under load share: nobody sees a version that nobody wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import fleet
from tests.faults import records as faults

from evercache.ops.drill import records as drill


@pytest.mark.parametrize("truth", [drill.Truth, faults.Truth, fleet.Truth])
def test_a_version_is_written_whole(truth: Callable[[Path], Any], tmp_path: Path) -> None:
    mine = truth(tmp_path)
    mine[3] = 255
    child = os.fork()
    if not child:
        try:
            theirs = truth(tmp_path)
            for _ in range(2000):
                for version in range(255, 1025):
                    theirs[3] = version
        finally:
            os._exit(0)
    seen = set()
    while not os.waitpid(child, os.WNOHANG)[0]:
        seen.update([mine[3] for _ in range(1000)])
    assert mine[3] == 1024
    assert min(seen) >= 255
    assert max(seen) <= 1024
