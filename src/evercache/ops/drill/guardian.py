"""What puts a deployment back when the drill itself is killed: a state file, and a process that outlives the drill.

The guardian reads its standard input, whose other end is the drill's. `done` there: nothing is left to do. The end
of the input without it: the drill is gone, and the guardian does what it would have done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evercache.errors import DeploymentError, DrillRefused, EvercacheError, UnavailableError
from evercache.ops.files import disk_errors, write_private
from evercache.ops.local import LocalDeployment
from evercache.ops.survey import Targets, ask, survey

__all__ = ["Guardian", "State", "forget", "one_at_a_time", "put_back", "restore"]

Say = Callable[[str], None]
SCRATCH = "evercache-drill-"
_DONE = b"done\n"
_BATCH, _SCANS = 500, 1_000_000


class State:
    """The file in the deployment's folder that says that a drill is under way, and what it would leave behind."""

    def __init__(self, deployment: LocalDeployment) -> None:
        self.path = deployment.folder / "drill.json"

    def __repr__(self) -> str:
        return f"<State {self.path}>"

    def write(self, namespace: str, scratch: Path, step: str) -> None:
        """Before anything is done that has to be put back."""
        with disk_errors(self.path.parent):
            state = {"namespace": namespace, "scratch": str(scratch), "step": step, "pid": os.getpid()}
            write_private(self.path, json.dumps(state) + "\n")

    def read(self) -> dict[str, Any] | None:
        """What a drill has left; None if it left nothing."""
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def remove(self) -> None:
        """Nothing is left to be put back."""
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def one_at_a_time(deployment: LocalDeployment) -> Iterator[int]:
    """One drill (with its guardian) at a time; a file lock, so that it ends with the processes. DrillRefused."""
    with disk_errors(deployment.folder.parent):
        path = deployment.folder.parent / f".{deployment.name}.drill.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DrillRefused(
                f"a drill of deployment {deployment.name!r} is under way, or what it did is being put back: "
                "wait for its end"
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)


class Guardian:
    """The process. Used by one thread."""

    def __init__(self, deployment: LocalDeployment, lock: int) -> None:
        # A session of its own: no Ctrl-C and no closed terminal reaches it. It shares the lock until its end.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evercache.ops.drill.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=deployment.folder,
            start_new_session=True,
            pass_fds=[lock],
        )
        place = {"name": deployment.name, "home": str(deployment.folder.parent)}
        self._write(json.dumps(place).encode() + b"\n")

    def __repr__(self) -> str:
        return f"<Guardian, process {self._process.pid}>"

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Everything is put back: it has nothing to do."""
        self._write(_DONE)
        self.leave()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10.0)

    def leave(self) -> None:
        """Leave to it what is not put back."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.returncode = self._process.poll()
        if self._process.returncode is None:
            self._process.returncode = 0  # no complaint that it still runs: it is meant to


def put_back(deployment: LocalDeployment, say: Say) -> None:
    """Thaw, start, and wait until all is whole; NotWhole and its kin."""
    for left in (2, 1, 0):
        try:
            deployment.bring_up(say)
            return
        except DeploymentError:
            # A server that was on its way out when it was looked at has ended since: it is started now.
            if not left:
                raise


def restore(deployment: LocalDeployment, say: Say = lambda text: None) -> bool:
    """Put back what a drill has left: thaw, start, wait until it is whole, remove its keys. False: it left nothing.

    Raises DeploymentError and its kinds; what was found is then still known to the next try.
    """
    state = State(deployment)
    left = state.read()
    if left is None:
        return False
    put_back(deployment, say)
    if namespace := str(left.get("namespace", "")):
        forget(deployment.targets, namespace)
    scratch = Path(str(left.get("scratch", "")))
    if scratch.name.startswith(SCRATCH) and scratch.parent == Path(tempfile.gettempdir()):
        shutil.rmtree(scratch, ignore_errors=True)
    state.remove()
    return True


def forget(targets: Targets, namespace: str) -> int:
    """Remove every key of a namespace at the master; how many there were. UnavailableError."""
    master = survey(targets).master
    if master is None:
        raise UnavailableError("no master is known")
    removed, cursor = 0, b"0"
    for _ in range(_SCANS):
        command = ("SCAN", cursor, "MATCH", f"{namespace}[:~]*", "COUNT", _BATCH)
        ((cursor, keys),) = ask(master, targets.node_options, command, timeout=5.0)
        if keys:
            (count,) = ask(master, targets.node_options, ("UNLINK", *keys), timeout=5.0)
            removed += int(count)
        if bytes(cursor) == b"0":
            break
    return removed


def main() -> None:
    """Entry of the process: wait for the end of the drill, and put back what it has not."""
    place = json.loads(sys.stdin.buffer.readline())
    if sys.stdin.buffer.read().endswith(_DONE):
        return
    deployment = LocalDeployment.open(place["name"], Path(place["home"]))
    log = deployment.folder / "logs" / "drill.log"

    def say(text: str) -> None:
        with contextlib.suppress(OSError), log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    say("the drill has ended without putting everything back: that is done now")
    try:
        restore(deployment, say)
    except EvercacheError as error:
        say(f"not everything is back: {error}")
    else:
        say("everything is back")


if __name__ == "__main__":
    main()
