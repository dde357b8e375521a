"""A quarter of the 700 schedules of every test run; in files of their own, so that both workers take part."""

from __future__ import annotations

import pytest

from tests.sim.runner import block


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(351, 526, 25))
def test_promises_hold(first: int) -> None:
    wrong = block(first, 25).complaints()
    assert not wrong, "\n".join(wrong)
