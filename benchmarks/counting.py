"""A proxy on the loopback interface that counts what callers send and get, connection by connection."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, Self

import hiredis

__all__ = ["Count", "CountingProxy"]

#: Of a connection that sends these only, nobody waits for the answers: greetings, and the questions of the monitor.
BACKGROUND = {"HELLO", "AUTH", "CLIENT", "SELECT", "INFO", "ROLE", "TIME", "PING"}
#: Whoever follows the log sends this.
TAIL = "XREAD"


@dataclass(slots=True)
class Count:
    """Of one connection since the last `take`. A trip: something was sent after everything had been answered."""

    trips: int = 0
    commands: int = 0
    sent: int = 0
    received: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.trips + other.trips,
            self.commands + other.commands,
            self.sent + other.sent,
            self.received + other.received,
        )


class _Link:
    """One connection. Touched by the proxy's thread, under its lock."""

    def __init__(self) -> None:
        self.count = Count()
        self.names: set[str] = set()
        self._reader = hiredis.Reader()
        self._answered = True

    def up(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self.names.add(command[0].decode().upper())
            self.count.commands += 1
        self.count.sent += len(data)
        if self._answered:
            self.count.trips += 1
            self._answered = False

    def down(self, data: bytes) -> None:
        self.count.received += len(data)
        self._answered = True


class CountingProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`. Its own thread runs it; a context manager."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._loop.run_forever, name="counting-proxy", daemon=True).start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result(5)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __repr__(self) -> str:
        return f"<CountingProxy {self.port} -> {self.target}, {len(self._links)} links>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        self._loop.call_later(0.1, self._loop.stop)

    def take(self) -> Count:
        """What callers sent and got since the last time; connections of the background do not count."""
        with self._lock:
            total = Count()
            for link in self._links:
                if TAIL not in link.names and not link.names <= BACKGROUND:
                    total += link.count
                link.count = Count()
            return total

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link()
        with self._lock:
            self._links.append(link)
        there, away = await asyncio.open_connection("127.0.0.1", self.target)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: Any) -> None:
            try:
                while data := await source.read(1 << 20):
                    with self._lock:
                        note(data)
                    sink.write(data)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                sink.close()

        for task in (
            self._loop.create_task(pump(reader, away, link.up)),
            self._loop.create_task(pump(there, writer, link.down)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
