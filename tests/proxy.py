"""A TCP proxy on loopback that makes a link slow, thin, dead or silent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

from tests.gate import close_server

__all__ = ["DelayProxy"]

T = TypeVar("T")

_CHUNK = 65536


class DelayProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`, each direction `delay` seconds late.

    The order of bytes is kept. Its own thread runs it; every method may be called from any thread
    (plain attributes, read anew for each chunk). Use as a context manager.
    """

    def __init__(self, target: int, delay: float = 0.0, *, throttle: float | None = None) -> None:
        self.target = target
        self.delay = delay
        self._throttle = throttle
        self._silent = False
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()  # touched by the proxy's thread only
        self._tasks: set[asyncio.Task[None]] = set()  # touched by the proxy's thread only
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="delay-proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __repr__(self) -> str:
        state = "cut" if not self._open else "silent" if self._silent else f"{self.delay * 1000:.0f} ms"
        return f"<DelayProxy {self.port} -> {self.target} {state}, {len(self._writers) // 2} links>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_delay(self, seconds: float) -> None:
        """Delay chunks that arrive from now on by so much."""
        self.delay = seconds

    def throttle(self, bytes_per_second: float | None) -> None:
        """Let no more than this through in each direction of each link; None lifts it."""
        self._throttle = bytes_per_second

    def half_open(self) -> None:
        """Keep links and accept new ones, but let no byte through: what is read is lost."""
        self._silent = True

    def cut(self) -> None:
        """Close every link, and each new one at once, until `heal`."""
        self._open = False
        self._call(self._drop_links())

    def heal(self) -> None:
        """Let bytes through again. Links whose bytes were lost are closed, as they are out of step."""
        if self._silent:
            self._call(self._drop_links())
        self._silent = False
        self._open = True

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """Cut within the block."""
        self.cut()
        try:
            yield
        finally:
            self.heal()

    def from_client(self, data: bytes) -> None:
        """Called in the proxy's thread with each chunk of a client, when it comes; for subclasses."""

    def passed(self, link: object, data: bytes, *, forward: bool) -> None:
        """Called in the proxy's thread with each chunk of a link; for subclasses.

        A client's is told when it comes (`forward`), a server's when it leaves.
        """

    def close(self) -> None:
        """Close everything and end the thread; again is fine."""
        if self._loop.is_closed():
            return
        self._open = False
        self._call(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(5)

    async def _drop_links(self) -> None:
        for writer in list(self._writers):
            writer.close()
        await asyncio.sleep(0)

    async def _shut_down(self) -> None:
        await close_server(self._server)
        for _ in range(5):  # whoever was let in just now gets to its beginning, and sees that it may not stay
            await asyncio.sleep(0)
        await self._drop_links()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        this = asyncio.current_task()
        assert this is not None
        self._tasks.add(this)
        self._writers.add(writer)
        try:
            if not self._open:
                return
            try:
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            except OSError:
                return
            self._writers.add(up_writer)
            try:
                link = object()

                def forward(data: bytes) -> None:
                    self.from_client(data)
                    self.passed(link, data, forward=True)

                def backward(data: bytes) -> None:
                    self.passed(link, data, forward=False)

                both = {
                    asyncio.ensure_future(self._pump(reader, up_writer, come=forward)),
                    asyncio.ensure_future(self._pump(up_reader, writer, leaves=backward)),
                }
                try:
                    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in both:
                        pump.cancel()
                    await asyncio.gather(*both, return_exceptions=True)
            finally:
                await self._finish(up_writer)
        except asyncio.CancelledError:
            pass
        finally:
            await self._finish(writer)
            self._tasks.discard(this)

    async def _finish(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        come: Callable[[bytes], None] | None = None,
        leaves: Callable[[bytes], None] | None = None,
    ) -> None:
        """Read at once, write later: bounded only by what a test sends."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await queue.get()
                if (wait := due - self._loop.time()) > 0:
                    await asyncio.sleep(wait)
                if self._silent:
                    continue
                if not data:
                    return
                if self._throttle:
                    await asyncio.sleep(len(data) / self._throttle)
                if leaves is not None:
                    leaves(data)
                writer.write(data)
                await writer.drain()

        async def read() -> None:
            while True:
                size = min(_CHUNK, max(1, int(self._throttle / 20))) if self._throttle else _CHUNK
                data = await reader.read(size)
                if come is not None and data:
                    come(data)
                queue.put_nowait((self._loop.time() + self.delay, data))
                if not data:
                    return

        reading, writing = asyncio.ensure_future(read()), asyncio.ensure_future(write())
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done() and reading.exception() is None:
                await asyncio.wait({writing})
        finally:
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
