"""What the tests of figures under faults watch: the machine, the servers, and what arrives at one.

A figure holds for the product, not for the machine: a process measures how late its short sleeps end, and a delay
counts without what the machine itself stood still in that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Self

from tests.server import CliError, Server

__all__ = ["Answering", "CountingProxy", "Stalls", "promotion"]

TICK = 0.005


class Stalls:
    """A thread that sleeps all the time and notes by how much (seconds) it was woken too late."""

    def __init__(self) -> None:
        self.late: list[tuple[float, float]] = []  # (when it should have woken, by how much too late)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)

    def _run(self) -> None:
        while not self._over.is_set():
            due = time.monotonic() + TICK
            time.sleep(TICK)
            if (late := time.monotonic() - due) > 0.002:
                self.late.append((due, late))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def within(self, begin: float, end: float) -> float:
        """The seconds of an interval in which this process did not run when it wanted to."""
        return sum(max(0.0, min(end, due + late) - max(begin, due)) for due, late in self.late)


class Answering:
    """Threads that ask nodes all the time and note when an answer took long: the servers' own stalls."""

    SLOW = 0.03

    def __init__(self, nodes: list[Server]) -> None:
        self.slow: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(node,), daemon=True) for node in nodes]

    def _run(self, node: Server) -> None:
        while not self._over.wait(2 * TICK):
            began = time.monotonic()
            with contextlib.suppress(OSError, CliError):
                node.cli("PING", timeout=1.0)
            if (now := time.monotonic()) - began > self.SLOW:
                self.slow.append((began, now))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def stalled(self, moment: float, before: float = 0.5) -> bool:
        """Whether a node stood still in the time before a moment: reads of it were given up, and it was left."""
        return any(began <= moment and end >= moment - before for began, end in self.slow)


def promotion(nodes: list[Server], old: Server, timeout: float = 15.0) -> tuple[Server, float]:
    """The first node but the old master that says itself that it is one, and when; asked every 5 ms."""
    others = [node for node in nodes if node is not old and node.alive]
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for node in others:
            with contextlib.suppress(OSError):  # a sentinel that promotes closes the connections
                if node.cli("ROLE")[0] == "master":
                    return node, time.monotonic()
        time.sleep(TICK)
    raise TimeoutError(f"no promotion within {timeout} s")


class CountingProxy:
    """Forwards 127.0.0.1:`port` to a port, and notes when a GET came. Its own thread runs it."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.gets: list[float] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="counting-proxy", daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(5)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def since(self, moment: float, until: float = float("inf")) -> list[float]:
        """The GETs that came in a time."""
        return [at for at in list(self.gets) if moment <= at < until]

    async def _shut(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        self._tasks.add(this)
        writers, pumps = [writer], []
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(up_writer)
            pumps = [
                asyncio.ensure_future(self._pump(reader, up_writer, True)),
                asyncio.ensure_future(self._pump(up_reader, writer, False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in writers:
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            self._tasks.discard(this)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: bool) -> None:
        while data := await reader.read(65536):
            if count:
                self.gets += [time.monotonic()] * data.count(b"$3\r\nGET\r\n")
            writer.write(data)
            await writer.drain()
