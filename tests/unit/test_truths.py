"""The truths that processes under load share: nobody sees a version that nobody wrote."""

from __future__ import annotations

import os
import time
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
    end = time.monotonic() + 0.4
    child = os.fork()
    if not child:
        theirs = truth(tmp_path)
        while time.monotonic() < end:
            for version in range(255, 1025):
                theirs[3] = version
        os._exit(0)
    seen = set()
    while time.monotonic() < end:
        seen.update([mine[3] for _ in range(1000)])
    os.waitpid(child, 0)
    if isinstance(mine, fleet.Truth):
        mine.close()
    assert len(seen) > 1
    assert min(seen) >= 255
    assert max(seen) < 1025
