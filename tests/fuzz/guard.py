"""What holds for every parser: it takes little time and memory, and what it reads runs no code."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["CPU_SECONDS", "MEMORY_KIB", "guarded"]

#: Of one input of some kilobytes. Instrumented code is several times slower, and the machine may be busy.
CPU_SECONDS = 5.0
MEMORY_KIB = 256 << 10

#: What only happens when a parser runs something, or reaches out (events of Python's audit, PEP 578).
_FORBIDDEN = frozenset(
    {
        "code.__new__",
        "compile",
        "ctypes.dlopen",
        "exec",
        "function.__new__",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.system",
        "pickle.find_class",
        "shutil.rmtree",
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
    }
)


class _Watch:
    """Installed once in a process; looks only while a parser is fed, at the thread that feeds it."""

    def __init__(self) -> None:
        self.thread = 0
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.thread and self.thread == threading.get_ident():
            forbidden = event in _FORBIDDEN
            if event == "import":
                # Time zones are looked for in a package of data.
                forbidden = not str(args[0]).startswith(("tzdata", "importlib"))
            if event in ("compile", "exec"):
                # Annotations of our own classes, which msgspec reads at each call.
                forbidden = sys._getframe(1).f_globals.get("__name__") != "typing"
            if forbidden:
                self.seen.append(f"{event} {args!r:.120}")
                raise PermissionError(f"{event} while a parser was fed")


_watch: _Watch | None = None


def guarded(check: Callable[[bytes], None], data: bytes) -> None:
    """Run a check; AssertionError if it ran code, or took too much time or memory."""
    global _watch
    if _watch is None:
        _watch = _Watch()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = _watched(_watch, check, data)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    if spent > CPU_SECONDS:
        # The clock of a virtual machine may count while that stands still: hardly twice at the same input.
        spent = min(spent, _watched(_watch, check, data))
    if spent > CPU_SECONDS:
        raise AssertionError(f"{len(data)} bytes took {spent:.1f} s of CPU")
    if grown > MEMORY_KIB:
        raise AssertionError(f"{len(data)} bytes took {grown >> 10} MiB of memory")


def _watched(watch: _Watch, check: Callable[[bytes], None], data: bytes) -> float:
    """Run a check; seconds of CPU that it took, AssertionError if it ran code."""
    watch.seen.clear()
    began = time.thread_time()
    watch.thread = threading.get_ident()
    try:
        check(data)
    except Exception as error:
        # What ran comes first: the parser may have taken the refusal for an error of its socket or file.
        if watch.seen:
            raise AssertionError(f"code ran: {watch.seen[0]}") from error
        raise
    finally:
        watch.thread = 0
    if watch.seen:
        raise AssertionError(f"code ran: {watch.seen[0]}")
    return time.thread_time() - began
