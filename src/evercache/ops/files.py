"""Files that the commands write: in one step, private, and with errors that say what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evercache.errors import DeploymentError, DiskFull

__all__ = ["check_room", "disk_errors", "write_private"]

#: Bytes that must be free before anything is written: six servers, their logs, a first append-only file.
ROOM = 64 * 1024 * 1024


@contextmanager
def disk_errors(folder: Path, other: str = "set EVERCACHE_HOME to another folder") -> Iterator[None]:
    """Turn the errors of a full or forbidden disk into ones that say what to do; `other` is the other way out."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"the disk of {folder} is full: make room, or {other}") from error
        if error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise DeploymentError(
                f"{error.filename or folder} cannot be written ({error.strerror}): correct its rights, or {other}"
            ) from error
        raise


def check_room(folder: Path) -> None:
    """Raise `DiskFull` if the disk of an existing folder has less than `ROOM` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise DiskFull(
            f"the disk of {folder} is full: {free // 2**20} MiB are free, {ROOM // 2**20} MiB are needed; "
            "make room, or set EVERCACHE_HOME to another folder"
        )


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
