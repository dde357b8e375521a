"""The thread that serves the caches of one deployment in the background: an event loop with its jobs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

__all__ = ["Background", "Job", "cancel", "keep"]

Job = Callable[[], Coroutine[Any, Any, None]]
#: Told of a job that raised.
Failed = Callable[[Job, Exception], None]


def _log(job: Job, error: Exception) -> None:
    logger = logging.getLogger("evercache")
    logger.error("a background job of the cache failed and is begun again: %r", job, exc_info=error)


class Background:
    """Runs jobs until stopped; a job that fails is logged and begun again. `start` and `stop` from any thread."""

    def __init__(self, name: str, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self.failed: Failed = _log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def __repr__(self) -> str:
        return f"<Background {self._thread.name} {'running' if self._thread.is_alive() else 'not running'}>"

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin; returns as soon as the loop takes callbacks, so that none posted from now on is lost."""
        self._thread.start()
        self._up.wait(1.0)

    def is_here(self) -> bool:
        """Whether the caller runs on this thread."""
        return self._thread is threading.current_thread()

    def post(self, callback: Callable[[], None]) -> None:
        """Have a callback run on the loop; nothing happens when it is not running."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(callback)
            except RuntimeError:  # it closed between the two lines
                return

    def stop(self, timeout: float) -> None:
        """End every job and the thread; waits `timeout` seconds for it at most."""
        if not self._up.wait(timeout):
            return
        stopping = self._stopping
        if stopping is not None:
            self.post(stopping.set)
        if not self.is_here():
            self._thread.join(timeout)

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._up.set()
        tasks = [asyncio.create_task(keep(job, self.failed)) for job in self._jobs]
        await self._stopping.wait()
        await cancel(tasks)


async def keep(job: Job, failed: Failed) -> None:
    """Run a job; one that raises is reported and begun again."""
    while True:
        try:
            await job()
            return
        except Exception as error:
            # A defect of ours must not end the background: it is reported in full, and the job goes on.
            failed(job, error)
            await asyncio.sleep(0.5)


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    # Again and again: `wait_for` of Python 3.11 swallows a cancellation that meets its result.
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.05)
    await asyncio.gather(*tasks, return_exceptions=True)
