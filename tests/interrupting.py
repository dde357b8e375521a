"""Exceptions raised by a signal handler at random moments, in a process of their own.

An exception of a handler appears after any bytecode of the main thread. What must survive that is exercised in a
child, since the tests themselves would not, and since a child may crash.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Alarm", "Interrupted", "python", "ticking", "under_interrupts"]


class Interrupted(Exception):
    """What the handler raises, as Celery's soft time limit: an `Exception`."""


class Alarm(TimeoutError):
    """What a handler of `signal.alarm` raises in many programs: a time-out that is not the server's."""


#: How many exceptions of `under_interrupts` did not reach it.
swallowed = 0


def under_interrupts(
    step: Callable[[], object],
    *,
    raises: int,
    seconds: float,
    shortest: float = 1e-4,
    longest: float = 2e-3,
    error: type[BaseException] = Interrupted,
) -> int:
    """Call `step` again and again while a handler raises `error` in it; how often it did.

    Ends after so many times or after `seconds`. The pauses are random, with every length equally likely, so that
    the exceptions meet each instruction. One that somebody caught within `step` is followed by another after 0.1 s.
    """
    global swallowed
    count, caught, within = 0, 0, False

    def handler(_signum: int, _frame: Any) -> None:
        nonlocal count
        if within:
            count += 1
            raise error

    end = time.monotonic() + seconds
    before = signal.signal(signal.SIGALRM, handler)
    try:
        while count < raises and time.monotonic() < end:
            try:
                seen = count
                within = True
                signal.setitimer(signal.ITIMER_REAL, random.uniform(shortest, longest), 0.1)
                while count == seen:
                    step()
                within = False
            except error:
                within = False
                caught += 1
    finally:
        within = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    swallowed = count - caught
    return count


class ticking:
    """A harmless handler, called so many times a second: a profiler. The kernel interrupts system calls for it."""

    def __init__(self, hertz: float) -> None:
        self._pause = 1 / hertz
        self.ticks = 0

    def __enter__(self) -> ticking:
        self._before = signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, self._pause, self._pause)
        return self

    def _tick(self, _signum: int, _frame: Any) -> None:
        self.ticks += 1

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


def python(code: str, *arguments: object, timeout: float = 120.0, quiet: bool = False) -> str:
    """Run a program in a child; what it printed. Fails, with its errors, unless it ended well.

    `quiet`: fail also where it wrote errors, such as a warning of a socket that nobody closed.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert not (quiet and done.stderr), done.stderr[-4000:]
    return done.stdout
