"""A copy of the project that is thrown away in the end: mutants are made in it, never in the project itself."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.mutants.mutant import PACKAGE, Mutant

__all__ = ["ROOT", "Done", "Workshop", "twin_of"]

ROOT = Path(__file__).resolve().parents[2]
#: What is copied: all that the library and its tests consist of.
_PARTS = (
    *("src", "tests", "tools", "docs", "examples", "benchmarks"),
    *("pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"),
)
_LEFT_OUT = ("__pycache__", "*.sqlite*", ".venv", ".hypothesis")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended; `code` is None where it was ended, as its time was over."""

    code: int | None
    output: str
    seconds: float


class Workshop:
    """One copy. One thread uses it at a time."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "evercache"
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.root.mkdir()
        for part in _PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, self.root / part, ignore=shutil.ignore_patterns(*_LEFT_OUT))
            elif (ROOT / part).exists():
                shutil.copy2(ROOT / part, self.root / part)
        # Bytecode is taken for current by whole seconds and the size: each text written here is a second younger.
        self._times = itertools.count(int(time.time()) + 1)
        #: That all commands took together.
        self.seconds = 0.0
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False
        #: Of the file with the mutant.
        self._original = b""

    def __repr__(self) -> str:
        return f"<Workshop {self.root}>"

    @classmethod
    @contextlib.contextmanager
    def opened(cls) -> Iterator[Workshop]:
        """A copy that is there for as long as the block runs."""
        with tempfile.TemporaryDirectory(prefix="evercache-mutants-", ignore_cleanup_errors=True) as folder:
            yield cls(Path(folder))

    def read(self, path: str) -> bytes:
        """A file of the package."""
        return (self.root / PACKAGE / path).read_bytes()

    def write(self, path: str, text: bytes) -> None:
        """Put a file into the package, with its generated twin. ValueError: the generator refuses the text."""
        file = self.root / PACKAGE / path
        self._put(file, text)
        if (twin := twin_of(path)) is not None:
            generator = _generator(self.root)
            try:
                text = generator.twin_text(file, self.root / PACKAGE / twin, self.root).encode()
            except generator.ConversionError as error:
                raise ValueError(str(error)) from None
            self._put(self.root / PACKAGE / twin, text)

    def _put(self, file: Path, text: bytes) -> None:
        file.write_bytes(text)
        os.utime(file, (moment := next(self._times), moment))

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """With the mutant in the copy. ValueError: the generator of the twins refuses it."""
        paths = [mutant.path, *([twin] if (twin := twin_of(mutant.path)) else [])]
        before = {path: self.read(path) for path in paths}
        self._original = before[mutant.path]
        try:
            self.write(mutant.path, mutant.applied(self._original))
            yield
        finally:
            for path, text in before.items():
                self._put(self.root / PACKAGE / path, text)

    @contextlib.contextmanager
    def restored(self, mutant: Mutant) -> Iterator[None]:
        """Within `mutated`: without the mutant for a while."""
        self.write(mutant.path, self._original)
        yield
        self.write(mutant.path, mutant.applied(self._original))

    def run(self, *arguments: str, limit: float, env: Mapping[str, str] | None = None) -> Done:
        """`python ARGUMENTS` on the copy; ended with all that it started in its session after `limit` seconds."""
        began = time.monotonic()
        path = os.pathsep.join([str(self.root / "src"), str(self.root)])
        if self._stopped:
            raise RuntimeError("the copy is not used any more")
        self._running = process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also what the command left behind, and where this process is interrupted
            _kill(process)
        if code is None:
            output, _ = process.communicate()
        self.seconds += (seconds := time.monotonic() - began)
        return Done(code, output.decode(errors="replace"), seconds)

    def stop(self) -> None:
        """End the command under way; another thread waits for it. Nothing runs on this copy after that."""
        self._stopped = True
        if self._running is not None:
            _kill(self._running)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def twin_of(path: str) -> str | None:
    """The file that is generated from this one, if any."""
    parts = path.split("/")
    return "/".join("_sync" if part == "_async" else part for part in parts) if "_async" in parts else None


def _generator(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("async_to_sync", root / "tools" / "async_to_sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chunks(names: Sequence[str]) -> str:
    """One name a line, for commands that read them from a file."""
    return "".join(f"{name}\n" for name in names)
