"""A plugin of pytest (`-p tests.mutants.recorder`): notes which test runs, which one failed, and what each file of
tests reaches. It works by environment variables:

MUTANTS_NOTE: a file that holds the id of the test under way, or "FAILED" and that of the first one that failed.
MUTANTS_MAP: one byte for each block of the mutated sources (`reach.py`), set when it runs, by any process.
MUTANTS_REACH: a file that gets, for each file of tests, what it reached, its seconds, and whether all passed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import pkgutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_NOTE = os.environ.get("MUTANTS_NOTE")
_REACH = os.environ.get("MUTANTS_REACH")


class Map:
    """What was reached since it was last looked at."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 0)
        self._empty = bytes(len(self._bytes))

    def taken(self) -> set[int]:
        """The numbers of the blocks; from here on none was reached."""
        reached = {number for number, byte in enumerate(self._bytes[:]) if byte}
        self._bytes[:] = self._empty
        return reached


def import_all() -> None:
    """Import the whole library: what runs at imports is reached by every test."""
    import evercache

    for module in pkgutil.walk_packages(evercache.__path__, "evercache."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of an extra
                importlib.import_module(module.name)


@dataclass(slots=True)
class _File:
    reached: set[int] = field(default_factory=set)
    seconds: float = 0.0
    passed: bool = True


class _Reach:
    """Which file of tests reaches what."""

    def __init__(self, target: str) -> None:
        self._target = Path(target)
        self._map = Map(os.environ["MUTANTS_MAP"])
        import_all()
        self._imports = self._map.taken()
        self._files: dict[str, _File] = {}
        self._over: set[str] = set()

    def _file(self, name: str) -> _File:
        return self._files.setdefault(name, _File())

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        self._map.taken()
        began = time.perf_counter()
        yield
        self._file(name).seconds += time.perf_counter() - began
        self._file(name).reached |= self._map.taken()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        if not isinstance(collector, pytest.Module):
            yield
            return
        with self._counted(collector.nodeid):
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        name = item.nodeid.partition("::")[0]
        with self._counted(name):
            yield
        if nextitem is None or nextitem.nodeid.partition("::")[0] != name:
            self._over.add(name)
            self._save()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._file(report.nodeid.partition("::")[0]).passed = False

    def _save(self) -> None:
        kept = {
            name: {"reached": sorted(file.reached), "seconds": round(file.seconds, 3), "passed": file.passed}
            for name, file in self._files.items()
            if name in self._over
        }
        self._target.write_text(json.dumps({"imports": sorted(self._imports), "files": kept}))


class _Note:
    """Which test runs, or failed first."""

    def __init__(self, target: str) -> None:
        self._target = Path(target)
        self._failed = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if not self._failed:
            self._target.write_text(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._fail(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._fail(report)

    def _fail(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self._failed:
            self._failed = True
            self._target.write_text(f"FAILED {report.nodeid}")


def pytest_configure(config: pytest.Config) -> None:
    if _NOTE:
        config.pluginmanager.register(_Note(_NOTE))
    if _REACH:
        config.pluginmanager.register(_Reach(_REACH))
