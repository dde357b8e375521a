"""The log says a thing when it changes."""

from __future__ import annotations

import logging

import pytest

from evercache.observe import StateLog
from evercache.observe.log import _LIMIT


def test_a_trouble_is_said_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    log = StateLog()
    with caplog.at_level(logging.INFO, "evercache"):
        log.over("x", "never began")
        log.trouble("x", "it began")
        log.trouble("x", "it goes on")
        assert log.troubles() == ["it began"]
        assert repr(log) == "<StateLog open=['x']>"
        log.over("x", "it ended")
        log.over("x", "it ended")
        log.trouble("x", "it began again")
    assert [record.getMessage() for record in caplog.records] == ["it began", "it ended", "it began again"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_the_level_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    log = StateLog(logging.getLogger("evercache.other"))
    with caplog.at_level(logging.INFO, "evercache"):
        log.trouble("x", "100 % of it", level=logging.INFO)
    (record,) = caplog.records
    assert (record.levelname, record.name, record.getMessage()) == ("INFO", "evercache.other", "100 % of it")


def test_what_is_open_is_bounded() -> None:
    log = StateLog(logging.getLogger("evercache.silent"))
    logging.getLogger("evercache.silent").setLevel(logging.CRITICAL)
    for n in range(_LIMIT + 5):
        log.trouble(str(n), str(n))
    assert len(log.troubles()) == _LIMIT
    assert log.troubles()[0] == "5"


def test_a_child_gets_a_lock_that_nobody_holds() -> None:
    log = StateLog()
    with log._lock:
        log.forget_lock()
        log.trouble("x", "said in the child", level=logging.DEBUG)
    assert log.troubles() == ["said in the child"]
