"""Where invalidations wait that no master had when the process ended: a file that processes may share."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evercache.clock import monotonic
from evercache.observe import Emit, EventHub, events
from evercache.protocol.journal import Pending
from evercache.protocol.scope import EVERYTHING, FUNCTION, KEY, Scope, known
from evercache.url import Location

__all__ = ["Spool", "owner_of"]

#: For how long another process may keep the file locked (seconds): at the start, while others wait; and at the end.
_PATIENCE, _PATIENCE_AT_END = 0.05, 0.5
_PAUSE = 0.002
#: A larger file (bytes) is not read: it stands for everything.
_LARGEST = 1 << 25
#: What the first byte of a line becomes when a master has it: one byte is written whole or not at all.
_DELIVERED = b"#"


def owner_of(location: Location, namespace: str) -> dict[str, Any] | None:
    """Whose invalidations they are, without credentials: deployment, database and namespace. None: nobody's, since
    memory does not outlive its process."""
    if location.kind == "memory":
        return None
    addresses = location.sentinels or (*location.nodes, *location.replicas)
    return {
        "kind": location.kind,
        "service": location.service,
        "at": sorted(map(str, addresses)),
        "db": location.node_options.db,
        "namespace": namespace,
    }


class Spool:
    """A file of JSON lines, one for each invalidation; or nothing.

    Lines are read at the start and appended at the end. When a master has an invalidation, the first byte of
    its line is overwritten, and the file is removed with its last line. So a process that is killed at any
    moment loses none, and what is delivered twice does nothing the second time. All changes are made under a
    lock of the file. Lines of another owner stay. Lines without an owner, of earlier versions, are everybody's.

    `start`, the background and `close` use it, one after the other.
    """

    def __init__(self, path: str | None, emit: Emit | None = None, owner: Mapping[str, Any] | None = None) -> None:
        self._path = None if path is None else os.path.abspath(path)
        self._emit = emit or EventHub().emit
        self._owner = owner
        #: The lines that were read and may not be delivered yet: the id and the scope of each. Two may have one id.
        self._read: dict[bytes, tuple[str, Scope]] = {}
        #: Another process kept the file locked when it was to be read.
        self.late = False

    def __repr__(self) -> str:
        return f"<Spool {self._path} undelivered={len(self._read)}>"

    def load(self) -> list[Pending]:
        """What earlier processes left for this cache. Trouble with the file is told, and never raised."""
        if self._path is None:
            return []
        self.late = False
        try:
            with self._locked(os.O_RDONLY, _PATIENCE) as file:
                lines = _lines(file)
        except FileNotFoundError:
            return []
        except TimeoutError:
            self.late = True
            return []
        except OSError as error:
            self._emit(events.SpoolUnreadable(str(error)))
            return []
        items = []
        for _, line in lines:
            item = self._parsed(line)
            if item is not None:
                self._read[line] = item.id, item.scope
                items.append(item)
        if items:
            self._emit(events.SpoolRead(len(items)))
        return items

    def _parsed(self, line: bytes) -> Pending | None:
        """The invalidation of a line, or None where it is another cache's."""
        try:
            record = json.loads(line)
            if not self._owns(record.get("of")):
                return None
            scope = known(str(record["kind"]), str(record["name"]), int(record.get("v", 1)))
            return Pending(str(record["id"]), scope, 0, due=0.0)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            # A line cut short by a crash may have stood for anything.
            return Pending(os.urandom(8).hex(), EVERYTHING, 0, due=0.0)

    def _owns(self, owner: Any) -> bool:
        """Whether a line of that owner is for this cache: a deployment may be named by some of its addresses."""
        mine = self._owner
        if owner is None or mine is None:
            return True
        same = all(owner[name] == mine[name] for name in ("kind", "service", "db", "namespace"))
        return same and not set(mine["at"]).isdisjoint(map(str, owner["at"]))

    def settle(self, pending: Iterable[Pending]) -> None:
        """Mark what a master has: `pending` are all that no master has."""
        if not self._read:
            return
        items = list(pending)
        ids, scopes = {item.id for item in items}, {item.scope for item in items}
        # Past a bound, pending ones merge into wider ones; nothing here says of which function a key is.
        all_wait, keys_wait = EVERYTHING in scopes, any(scope.kind == FUNCTION for scope in scopes)
        scopes |= {s for _, s in self._read.values() if all_wait or (keys_wait and s.kind == KEY)}
        # One that waits for the same scope may have taken the place of another, and is nowhere but here.
        done = {line for line, (id, scope) in self._read.items() if id not in ids and scope not in scopes}
        if not done:
            return
        try:
            with self._locked(os.O_RDWR, _PATIENCE) as file:
                self._mark(file, done)
        except FileNotFoundError:
            pass  # another process of this owner had marked them all
        except TimeoutError:
            return  # the next time
        except OSError as error:
            self._emit(events.SpoolUnreadable(f"{error}: what was brought to the master will be brought again"))
        for line in done:
            del self._read[line]

    def _mark(self, file: int, done: set[bytes]) -> None:
        left = False
        for at, line in _lines(file):
            if line in done:
                os.pwrite(file, _DELIVERED, at)
            else:
                left = True
        if not left and self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:
                os.ftruncate(file, 0)  # a folder in which nothing may be removed

    def save(self, items: Iterable[Pending]) -> str:
        """Append what is left and is not in the file already; returns what became of it, in words."""
        if self._path is None:
            return "set spool= to a file path to keep them"
        owner = {} if self._owner is None else {"of": self._owner}
        there = {id for id, _ in self._read.values()}
        lines = [
            json.dumps({"v": 1, "id": item.id, "kind": item.scope.kind, "name": item.scope.name, **owner}) + "\n"
            for item in items
            if item.id not in there
        ]
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            with self._locked(flags, _PATIENCE_AT_END, anyway=True) as file:
                _append(file, "".join(lines).encode())
        except OSError as error:
            return f"they cannot be kept either: {error}; check spool= and the rights of its folder"
        return f"they are kept in {self._path}"

    @contextlib.contextmanager
    def _locked(self, flags: int, patience: float, *, anyway: bool = False) -> Iterator[int]:
        """The file, open and locked. TimeoutError where another process has it for too long, unless `anyway`."""
        assert self._path is not None
        end = monotonic() + patience
        while True:
            # A named pipe, say, must not hold this process up.
            file = os.open(self._path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise OSError(f"{self._path} is not a file")
                taken = _lock(file)
                over = monotonic() >= end
                if (taken and self._still(file)) or (over and anyway):
                    yield file
                    return
                if over:
                    raise TimeoutError(f"another process keeps {self._path} locked")
            finally:
                # A process that was forked meanwhile has the file open as well, and the lock with it.
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)
            time.sleep(_PAUSE)

    def _still(self, file: int) -> bool:
        """Whether the file is at its path: the process that had it locked may have removed it."""
        assert self._path is not None
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _lines(file: int) -> list[tuple[int, bytes]]:
    """The lines that are not delivered yet, each with its place."""
    if os.fstat(file).st_size > _LARGEST:
        raise OSError(f"the file is larger than {_LARGEST >> 20} MiB; remove it, and clear the cache")
    data = b""
    while part := os.pread(file, 1 << 20, len(data)):
        data += part
    found, at = [], 0
    for line in data.split(b"\n"):
        if line.strip(b"\r") and not line.startswith(_DELIVERED):
            found.append((at, line))
        at += len(line) + 1
    return found


def _append(file: int, data: bytes) -> None:
    """All of it or nothing, and not behind a line that was cut short."""
    if not data:
        return
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        data = b"\n" + data
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise
