"""The file in which invalidations wait that no master had."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from evercache.engine.spool import Spool
from evercache.protocol.journal import Journal
from evercache.protocol.scope import EVERYTHING, Scope, Subject

SCOPES = [Scope.of_key("ns:k:ä\n"), Scope.of_function("app.f"), Scope.of_tag("a"), EVERYTHING]


def spool(path: Path, *scopes: Scope, first: int = 0) -> Spool:
    journal = Journal()
    items = [journal.begin(f"{n:016x}", scope) for n, scope in enumerate(scopes, first)]
    spool = Spool(str(path))
    assert spool.save(items) == f"they are kept in {path}"
    return spool


def test_what_is_saved_is_loaded_once(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    kept = spool(path, *SCOPES)
    items = kept.load()
    assert [item.scope for item in items] == SCOPES
    assert [item.id for item in items] == [f"{n:016x}" for n in range(4)]
    assert all(item.due == 0.0 and item.own and not item.replay for item in items)
    assert kept.load() == []
    assert list(tmp_path.iterdir()) == []


def test_two_processes_append(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool(path, Scope.of_key("a"))
    assert [i.scope.name for i in spool(path, Scope.of_key("b"), first=1).load()] == ["a", "b"]


def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool(path, EVERYTHING)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_was_cut_short_may_have_stood_for_anything(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    kept = spool(path, Scope.of_key("a"))
    with path.open("a") as file:
        file.write('{"v": 1, "id": "00", "ki\n[1]\n{"id": "00"}\n')
    spool(path, Scope.of_key("b"), first=1)
    items = kept.load()
    assert [item.scope for item in items] == [Scope.of_key("a"), *[EVERYTHING] * 3, Scope.of_key("b")]
    assert len({item.id for item in items}) == 5


def test_fields_of_a_later_version_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_text(json.dumps({"v": 2, "id": "00", "kind": "zone", "name": "eu", "more": [1]}) + "\n")
    (item,) = Spool(str(path)).load()
    assert item.scope.covers(Subject("ns:any"))  # whatever a zone is: too wide is safe


def test_without_a_path_nothing_is_kept(tmp_path: Path) -> None:
    nowhere = Spool(None)
    assert nowhere.save([]) == "set spool= to a file path to keep them"
    assert nowhere.load() == []


def test_without_a_file_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert Spool(str(tmp_path / "none")).load() == []


def test_a_file_that_cannot_be_written_is_said_with_the_mend(tmp_path: Path) -> None:
    said = Spool(str(tmp_path / "none" / "spool")).save([])
    assert "cannot be kept" in said
    assert "check spool=" in said


def test_a_file_that_cannot_be_read_is_said_and_does_not_stop_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spool").mkdir()
    assert Spool(str(tmp_path / "spool")).load() == []
    assert "check spool=" in caplog.text
