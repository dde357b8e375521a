"""Descriptors, threads and memory are missing for a second, at any moment: no caller gets an exception for it, no
call takes much longer than its budget, and soon after all works again.

`python -m tests.exhaustion` is the long form, and judges the times strictly.
"""

from __future__ import annotations

import sys

import pytest
from tests.exhaustion import describe, judge, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")


@pytest.mark.timeout(180)
def test_whatever_is_missing_for_a_second_no_caller_notices() -> None:
    result = run(moments=8, seed=3)
    print(describe(result))
    assert judge(result, beyond=1.0, within=5.0) == []


@pytest.mark.timeout(180)
def test_the_first_use_of_a_process_that_has_no_descriptors() -> None:
    result = run(moments=1, seed=1, only="descriptors")
    assert judge(result, beyond=1.0, within=5.0) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_moments() -> None:
    result = run(moments=50, seed=7)
    print(describe(result))
    assert judge(result, beyond=1.0, within=5.0) == []
