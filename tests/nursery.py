"""Programs for tests that need not import the library anew: forked from a process that has imported it.

The nursery is a process with one thread and no cache. It imports what a program names, and forks. Such a program is
like one of an interpreter of its own, but costs a few milliseconds of processor time instead of 250. What tests
imports, interpreters, forks or exits themselves starts interpreters.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["ROOT", "Program", "evercache"]

ROOT = Path(__file__).resolve().parents[1]
#: The longest description of a program (bytes).
LONGEST = 1 << 17


class _Nursery:
    """One for this process, started when it is first needed; it ends with its line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all of it
        self._owner = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        atexit.register(self._at_exit)

    def send(self, job: dict[str, Any], files: list[int]) -> None:
        """Have it start a program whose input, output, error output and fate are these files."""
        with self._lock:
            if self._line is None or self._owner != os.getpid():
                self._start()
            assert self._line is not None
            socket.send_fds(self._line, [json.dumps(job).encode()], files)

    def _start(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"from tests.nursery import main; main({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._owner = os.getpid()

    def _at_exit(self) -> None:
        if self._owner == os.getpid() and self._process is not None and self._line is not None:
            self._line.close()
            self._process.wait(10)


_nursery = _Nursery()


class Program:
    """A running program, with that part of `subprocess.Popen` that tests use. Not for several threads at once.

    `what` is a function without arguments, as `package.module:name`, or the text of a program; both find their
    arguments in `sys.argv[1:]`. Warnings are errors in it if `strict`. With `text=False` its pipes carry bytes,
    unbuffered. `stderr` may be `subprocess.PIPE` or a file; otherwise it is ours. What the function returns is the
    exit code, as for `sys.exit`. It runs in the folder `cwd`, and `environ` is added to our environment.
    """

    def __init__(
        self,
        what: str,
        *arguments: str,
        imports: Sequence[str] = (),
        strict: bool = True,
        text: bool = True,
        stderr: int | IO[Any] | None = None,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.args = [what, *arguments]
        self.returncode: int | None = None
        (its_in, to_it), (from_it, its_out), (self._fate, its_fate) = os.pipe(), os.pipe(), os.pipe()
        theirs, said = [its_in, its_out, its_fate], -1
        if stderr == subprocess.PIPE:
            said, its_err = os.pipe()
            theirs.append(its_err)
        else:
            its_err = 2 if stderr is None or isinstance(stderr, int) else stderr.fileno()
        job = {
            "what": what,
            "arguments": arguments,
            "imports": imports,
            "strict": strict,
            "environ": {**os.environ, **(environ or {})},
            "cwd": str(cwd) if cwd is not None else "",
        }
        try:
            _nursery.send(job, [its_in, its_out, its_err, its_fate])
        finally:
            for one in theirs:
                os.close(one)
        self.stdin = _opened(to_it, "w", text)
        self.stdout = _opened(from_it, "r", text)
        self.stderr = _opened(said, "r", text) if said >= 0 else None
        self.pid = int(self._heard(30.0) or self._lost("said nothing"))

    def __repr__(self) -> str:
        return f"<Program {self.args[0][:40]!r} pid {self.pid} {self.returncode}>"

    def _lost(self, how: str) -> str:
        raise RuntimeError(f"the nursery {how} at the start or the end of {self.args}")

    def _heard(self, timeout: float | None) -> str:
        """The next line of the nursery about it; nothing if none comes in time."""
        if not select.select([self._fate], [], [], timeout)[0]:
            return ""
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._fate, 1) or self._lost("ended").encode()
        return line.decode().strip()

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended."""
        if self.returncode is None:
            said = self._heard(timeout)
            if not said:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(said)
            os.close(self._fate)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """If it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, said: str | None = None, timeout: float = 60.0) -> tuple[Any, Any]:
        """Say this, close its input, and read all that it says until it has ended."""
        end = time.monotonic() + timeout
        found: dict[str, Any] = {}

        def read(name: str, stream: IO[Any]) -> None:
            with stream:
                found[name] = stream.read()

        streams = {"out": self.stdout, "err": self.stderr}
        open_ones = {name: stream for name, stream in streams.items() if stream is not None and not stream.closed}
        readers = [threading.Thread(target=read, args=one, daemon=True) for one in open_ones.items()]
        for reader in readers:
            reader.start()
        if not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(said or "")
        for reader in readers:
            reader.join(max(0.0, end - time.monotonic()))
        self.wait(max(0.0, end - time.monotonic()))
        return found.get("out"), found.get("err")


def evercache(*arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None) -> Program:
    """The command line, with its error output on a pipe."""
    imports = ("evercache.ops.cli.commands",)
    return Program(
        "evercache.ops.cli:main", *arguments, imports=imports, stderr=subprocess.PIPE, cwd=cwd, environ=environ
    )


def _opened(file: int, mode: str, text: bool) -> IO[Any]:
    return os.fdopen(file, mode, encoding="utf-8") if text else os.fdopen(file, mode + "b", buffering=0)


# -- in the nursery


def main(line: int) -> None:
    """Fork for whatever the line says; each program returns from here in a process of its own, as from any main."""
    with socket.socket(fileno=line) as jobs:
        mine = _serve(jobs)
    if mine is not None:
        _run(**mine)


def _serve(jobs: socket.socket) -> dict[str, Any] | None:
    """The job in each child; None in the nursery itself, at the end."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the programs end before those who sent for them
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    fates: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([jobs, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _bury(fates)
        if jobs not in ready:
            continue
        data, files, _, _ = socket.recv_fds(jobs, LONGEST, 4)
        if not data:
            return None
        job = json.loads(data)
        for name in job.pop("imports"):
            importlib.import_module(name)
        if "\n" not in job["what"]:
            importlib.import_module(job["what"].partition(":")[0])
        gc.freeze()  # what is there now is garbage in no child, which need not look through it
        if pid := os.fork():
            fates[pid] = files[3]
            os.write(files[3], f"{pid}\n".encode())
            for one in files[:3]:
                os.close(one)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in enumerate(files[:3]):
            os.dup2(file, number)
        for one in [*files, *fates.values(), woken, wakes]:
            os.close(one)
        return job  # type: ignore[no-any-return]


def _bury(fates: dict[int, int]) -> None:
    """Tell those who sent for the programs that ended."""
    for pid, fate in list(fates.items()):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with contextlib.suppress(BrokenPipeError):  # they have left
                os.write(fate, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(fates.pop(pid))


def _run(what: str, arguments: list[str], strict: bool, environ: dict[str, str], cwd: str) -> None:
    os.environ.clear()
    os.environ.update(environ)
    if cwd:
        os.chdir(cwd)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    sys.argv = ["-c", *arguments]
    if strict:
        warnings.simplefilter("error")
    if "\n" not in what:
        module, _, name = what.partition(":")
        sys.exit(getattr(sys.modules[module], name)())
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<program>", "exec"), program.__dict__)
