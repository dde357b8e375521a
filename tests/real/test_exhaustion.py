"""Descriptors, threads and memory are missing for a second, at any moment: no caller gets an exception for it, no
call takes much longer than its budget, and soon after all works again.

`python -m tests.exhaustion` is the long form, and judges the times strictly.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.exhaustion import describe, judge, run
from tests.servers import Deployment, wait_for

from evercache import Cache

pytestmark = [
    pytest.mark.storm,
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux"),
]


@pytest.mark.timeout(180)
def test_whatever_is_missing_for_a_second_no_caller_notices() -> None:
    result = run(moments=8, seed=3)
    print(describe(result))
    assert judge(result, beyond=1.0, within=5.0) == []


@pytest.mark.timeout(180)
def test_the_first_use_of_a_process_that_has_no_descriptors() -> None:
    result = run(moments=1, seed=1, only="descriptors")
    assert judge(result, beyond=1.0, within=5.0) == []


def test_a_background_that_died_goes_on_where_it_was(deployment: Deployment) -> None:
    """It reads the log on at its position: nothing is learnt anew, and what was said meanwhile is heard."""
    elsewhere = f"{deployment.url}&client_name=other"  # with a background of its own
    with Cache(deployment.url, namespace="died") as one, Cache(elsewhere, namespace="died") as other:
        versions = iter(range(100))

        @one.cached(ttl=60, name="page")
        def page(number: int) -> int:
            return next(versions)

        @other.cached(ttl=60, name="page", near=30)
        def seen(number: int) -> int:
            return next(versions)

        first = page(1)
        wait_for(lambda: seen(1) == first, what="the other cache to serve it")
        engine = other._raw_engine()
        background: Any = engine.deployment._background
        resyncs, loop = engine.state.resyncs, background._loop

        def fail(timeout: float | None) -> None:
            del loop._selector.select
            raise OSError("the selector is gone")

        loop._selector.select = fail
        wait_for(lambda: background._loop not in (None, loop), what="another loop")
        assert page.invalidate(1)
        second = page(1)
        wait_for(lambda: seen(1) == second, what="the invalidation to be heard")
        assert engine.state.resyncs == resyncs
        wait_for(lambda: other.health().problems == (), what="health to say that all is well")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_moments() -> None:
    result = run(moments=50, seed=7)
    print(describe(result))
    assert judge(result, beyond=1.0, within=5.0) == []
