"""Another thread that comes between two bytecodes, for what is read without a lock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType
from typing import Any

__all__ = ["before_each_step", "interrupted"]


def before_each_step(work: Callable[[], object], look: Callable[[], object]) -> int:
    """Run something in Python and call `look` before each bytecode of it; how many there were."""
    steps = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            look()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


def interrupted(make: Callable[[], tuple[Callable[[], Any], Callable[[], object]]]) -> list[Any]:
    """What a reader finds where a change comes before its first bytecode, its second, and so on.

    `make` gives a reader and a change, anew for each run.
    """
    reader, _ = make()
    found: list[Any] = []
    for at in range(before_each_step(reader, lambda: None)):
        reader, change = make()
        steps = count()

        def look(at: int = at, steps: Iterator[int] = steps, change: Callable[[], object] = change) -> None:
            if next(steps) == at:
                change()

        def read(reader: Callable[[], Any] = reader) -> None:
            found.append(reader())

        before_each_step(read, look)
    return found
