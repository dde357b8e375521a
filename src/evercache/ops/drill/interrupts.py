"""Ctrl-C, SIGTERM and a closed terminal in a drill: the first ends it, and none ends the putting back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["PUTTING_BACK", "REPORTING", "Interrupts", "Left"]

PUTTING_BACK = "everything is being put back first; once more, and a process in the background does it instead"
REPORTING = "everything is back, and the report is being written; once more to do without it"


class Left(BaseException):
    """Somebody insisted on ending while everything is put back: the guardian does the rest."""


class Interrupts:
    """A context manager for the main thread. While it is `open`, the first signal raises KeyboardInterrupt.

    After that, and while it is shut, one more is only answered, and the next raises `Left`.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.came = False
        #: What is answered to a signal that interrupts nothing.
        self.answer = PUTTING_BACK
        self._say = say
        self._open = False
        self._insisted = 0
        self._before: dict[int, object] = {}

    def __repr__(self) -> str:
        return f"<Interrupts {'open' if self._open else 'shut'}, came={self.came}>"

    def open(self) -> None:
        """From now on a signal interrupts; also one that came before."""
        if self.came:
            raise KeyboardInterrupt
        self._open = True

    def shut(self) -> None:
        """From now on none does."""
        self._open = False

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._open:
            # Shut by the first one itself, so that no second one comes between this and the putting back.
            self._open, self.came = False, True
            raise KeyboardInterrupt
        self.came = True
        self._insisted += 1
        if self._insisted > 1:
            raise Left
        self._say(self.answer)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
