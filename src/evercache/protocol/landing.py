"""A result that somebody sets once and others wait for, without a lock that an exception could leave held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Landing"]

T = TypeVar("T")


class Landing(Generic[T]):
    """Safe for threads, signal handlers and finalizers.

    `concurrent.futures.Future` and `threading.Condition` hold a lock in code written in Python: an exception that a
    signal handler raises there leaves it held, and every other thread waits for it for ever. Here each step is one
    operation of a `deque`. At worst an exception loses a wake-up, so a waiter looks again every few milliseconds
    (`client/waits.py`).
    """

    __slots__ = ("_wakers", "done", "result")

    def __init__(self) -> None:
        self._wakers: deque[Callable[[], object]] = deque()
        self.done = False
        self.result: T | None = None

    def __repr__(self) -> str:
        return f"<Landing {self.result!r}>" if self.done else f"<Landing waiting={len(self._wakers)}>"

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._wakers)

    def set(self, result: T | None) -> None:
        """Set the result and wake the waiters; a second call changes nothing."""
        if not self.done:
            self.result = result
            self.done = True
        self._wake()

    def add(self, waker: Callable[[], object]) -> None:
        """Have `waker` called once the result is set. It returns at once and raises nothing."""
        self._wakers.append(waker)
        if self.done:
            self._wake()

    def discard(self, waker: Callable[[], object]) -> None:
        """Forget a waker."""
        try:
            self._wakers.remove(waker)
        except (ValueError, IndexError):  # called already, or another thread changes the deque
            return

    def _wake(self) -> None:
        while self._wakers:
            try:
                waker = self._wakers.popleft()
            except IndexError:  # another thread was quicker
                return
            waker()
