"""The file in which invalidations wait that no master had."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from evercache.engine.spool import Spool, owner_of
from evercache.protocol.journal import Journal
from evercache.protocol.scope import EVERYTHING, Scope, Subject
from evercache.url import parse_url

SCOPES = [Scope.of_key("ns:k:ä\n"), Scope.of_function("app.f"), Scope.of_tag("a"), EVERYTHING]


def spool(path: Path, *scopes: Scope, first: int = 0) -> Spool:
    journal = Journal()
    items = [journal.begin(f"{n:016x}", scope) for n, scope in enumerate(scopes, first)]
    spool = Spool(str(path))
    assert spool.save(items) == f"they are kept in {path}"
    return spool


def test_what_is_saved_is_loaded_until_it_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    kept = spool(path, *SCOPES)
    items = kept.load()
    assert [item.scope for item in items] == SCOPES
    assert [item.id for item in items] == [f"{n:016x}" for n in range(4)]
    assert all(item.due == 0.0 and item.own and not item.replay for item in items)
    again = Spool(str(path)).load()
    assert [item.id for item in again] == [item.id for item in items], "the first may be killed"
    kept.settle(items[2:])
    assert [item.scope for item in Spool(str(path)).load()] == SCOPES, "what replaced them may be pending"
    kept.settle(items[2:3])
    assert [item.scope for item in Spool(str(path)).load()] == SCOPES[2:3]
    kept.settle([])
    assert kept.load() == []
    assert list(tmp_path.iterdir()) == []


def test_what_waits_in_the_place_of_another_keeps_its_line(tmp_path: Path) -> None:
    """The later one of the same scope is in memory only."""
    kept = spool(tmp_path / "spool", Scope.of_key("a"), Scope.of_key("b"))
    kept.load()
    later = Journal().begin("f" * 16, Scope.of_key("a"))
    kept.settle([later])
    assert [item.scope.name for item in Spool(str(tmp_path / "spool")).load()] == ["a"]
    kept.settle([])
    assert not (tmp_path / "spool").exists()


def test_what_merged_into_its_function_keeps_its_line(tmp_path: Path) -> None:
    """A later invalidation of the key takes the place of what was read, and merges into its function: only that
    waits now, and a process that is killed had nothing else in the file."""
    path = tmp_path / "spool"
    key, journal = Scope.of_key("ns:f:1"), Journal(pending_limit=2)
    spool(path, key)
    kept = Spool(str(path))
    for item in kept.load():
        journal.pending[item.id] = item
    for number in (1, 2, 3):
        journal.given_up(journal.begin(f"later{number}", Scope.of_key(f"ns:f:{number}"), "f"), 0.0)
    assert [item.scope for item in journal.pending.values()] == [Scope.of_function("f")]
    kept.settle(journal.pending.values())
    assert [item.scope for item in Spool(str(path)).load()] == [key]
    kept.settle([])
    assert not path.exists()


def test_what_is_left_again_is_not_written_twice(tmp_path: Path) -> None:
    kept = spool(tmp_path / "spool", Scope.of_key("a"))
    items = kept.load()
    before = (tmp_path / "spool").read_bytes()
    kept.save(items)
    assert (tmp_path / "spool").read_bytes() == before


URLS = [
    "redis://127.0.0.1:6379/0",
    "redis://127.0.0.1:6379/1",
    "redis://127.0.0.1:6380/0",
    "sentinel://a,b,c/mymaster",
    "sentinel://a,b,c/other",
    "sentinel://d,e/mymaster",
    "unix:///run/valkey.sock",
]


def of(path: Path, url: str, namespace: str = "shop") -> Spool:
    """The spool of a cache."""
    return Spool(str(path), owner=owner_of(parse_url(url), namespace))


def test_each_cache_takes_its_own_lines(tmp_path: Path) -> None:
    path, journal = tmp_path / "spool", Journal()
    owners = [(url, namespace) for url in URLS for namespace in ("shop", "site")]
    for n, (url, namespace) in enumerate(owners):
        of(path, url, namespace).save([journal.begin(f"{n:016x}", Scope.of_key(f"{n}"))])
    for n, (url, namespace) in enumerate(owners):
        one = of(path, url, namespace)
        assert [item.scope.name for item in one.load()] == [f"{n}"]
        one.settle([])
    assert not path.exists()


def test_a_deployment_is_known_by_some_of_its_addresses_and_any_login(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    of(path, "sentinel://ann:secret@a,b,c/mymaster").save([Journal().begin("0" * 16, EVERYTHING)])
    assert "secret" not in path.read_text()
    assert of(path, "sentinel://bob@c,d,e/mymaster").load()


def test_lines_without_an_owner_are_everybody_s(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool(path, Scope.of_key("a"))
    assert all(of(path, url).load() for url in URLS)


def test_a_process_that_keeps_it_locked_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    spool(path, Scope.of_key("a"))
    other = Spool(str(path))
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        began = time.monotonic()
        assert other.load() == []
        assert time.monotonic() - began < 1.0
        assert other.late
        assert spool(path, Scope.of_key("b"), first=1), "written without the lock: better than lost"
    assert [item.scope.name for item in other.load()] == ["a", "b"]
    assert not other.late


def test_a_process_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """What it did to the file by then is a prefix of its changes, each of which is one byte, or appends."""
    path, journal = tmp_path / "spool", Journal()
    for n in range(20):
        Spool(str(path)).save([journal.begin(f"{n:016x}", Scope.of_key(f"{n}"))])
    for delivered in range(20):
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                mine, written = Spool(str(path)), 0
                items = mine.load()
                real = os.pwrite

                def dies(*arguments: Any, real: Any = real) -> int:
                    nonlocal written
                    if written == 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                    written += 1
                    return real(*arguments)

                os.pwrite = dies  # type: ignore[assignment]
                mine.settle(items[2:])
            os._exit(1)
        os.waitpid(pid, 0)
        left = {int(item.id, 16) for item in Spool(str(path)).load()}
        assert left >= set(range(delivered + 1, 20))
    assert len(left) <= 1


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spool"
    spool(path, Scope.of_key("a"))
    before, write = path.read_bytes(), os.write

    def half(file: int, data: bytes) -> int:
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:-40])

    monkeypatch.setattr(os, "write", half)
    assert "No space left" in Spool(str(path)).save([Journal().begin("1" * 16, Scope.of_key("b"))])
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["folder", "pipe", "large"])
def test_what_is_no_spool_is_said_once(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spool"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate((1 << 25) + 1)
    one = Spool(str(path))
    assert one.load() == []
    one.settle([])
    assert len([r for r in caplog.records if "check spool=" in r.getMessage()]) == 1


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


def test_two_lines_of_one_id_are_both_delivered(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.write_text(
        '{"v": 1, "id": "ab", "kind": "k", "name":"ns:a"}\n{"v": 1, "id": "ab", "kind": "k", "name": "ns:a"}\n'
    )
    spool = Spool(str(path))
    assert len(spool.load()) == 2
    spool.settle([])
    assert not path.exists()
