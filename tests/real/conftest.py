"""What all tests on real servers have in common; their servers are in `tests/conftest.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evercache import Cache


@pytest.fixture(scope="module")
def default_budget() -> float:
    """What a call waits for its servers at most (s), where a test gives no budget.

    Many tests count computations, and eight at once on two processors may keep the first call of a cache waiting
    for longer than a page would. A module that is about the budget returns its own.
    """
    return 1.0


@pytest.fixture(scope="module", autouse=True)
def _default_budget(default_budget: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        defaults = {**(Cache.__init__.__kwdefaults__ or {}), "budget": default_budget}
        patch.setattr(Cache.__init__, "__kwdefaults__", defaults)
        yield
