"""TCP gates on loopback, any number in one thread, whose rules may differ by who connects."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

__all__ = ["Gate", "GateLoop", "Rule", "close_server"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a gate does to one link. Seconds."""

    #: How late the server's bytes arrive at the client.
    delay: float = 0.0
    #: Seconds for each single byte of the server's; None: as they come.
    drip: float | None = None
    #: Each byte of the server's is another one.
    garble: bool = False
    #: Links stay, and no byte passes.
    silent: bool = False
    #: Links are closed, and new ones at once.
    closed: bool = False


class GateLoop:
    """The thread that runs any number of gates; a context manager that closes them all."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gates: list[Gate] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="gates", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<GateLoop of {len(self.gates)} gates>"

    def gate(self, target: int, port: int = 0) -> Gate:
        """A gate in front of 127.0.0.1:`target`."""
        made = Gate(self, target, port)
        self.gates.append(made)
        return made

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop's thread; not from that thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def close(self) -> None:
        """End all gates and the thread; again is fine."""
        if self.loop.is_closed():
            return
        self.call(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()

    async def _end(self) -> None:
        for gate in self.gates:
            await gate.end()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)  # links that were let in just now, or are being made
        for _ in range(2):  # a transport that was aborted closes its socket a turn later
            await asyncio.sleep(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def close_server(server: asyncio.Server) -> None:
    """Close it, once whoever was let in has a transport: asyncio forgets sockets that it accepted just before."""
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    await asyncio.sleep(0)
    server.close()


class Gate:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`, under rules that may differ by who connects.

    Servers are told apart by the address that they connect from (`bind-source-addr`). The rule is looked up
    anew for every chunk. The methods may be called from any thread but the loop's.
    """

    def __init__(self, loop: GateLoop, target: int, port: int = 0) -> None:
        self.target = target
        self._loop = loop
        self._rule = Rule()
        self._by_source: dict[str, Rule] = {}
        self.links: set[_Near] = set()  # touched by the loop's thread only
        self._server = loop.call(self._listen(port))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __repr__(self) -> str:
        return f"<Gate {self.port} -> {self.target} {self._rule} {self._by_source or ''}>"

    async def _listen(self, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Near(self), "127.0.0.1", port, backlog=512)

    def rule(self, source: str) -> Rule:
        """What holds for links from this address."""
        return self._by_source.get(source, self._rule)

    def set(self, rule: Rule, source: str | None = None) -> None:
        """From now on, for all or for one source. Links that end, or whose bytes were lost, are closed."""
        self._loop.call(self._set(rule, source))

    def heal(self) -> None:
        """No rules any more; links that were ill are closed."""
        self._loop.call(self._heal())

    async def _set(self, rule: Rule, source: str | None) -> None:
        for link in list(self.links):
            mine = source == link.source if source else link.source not in self._by_source
            before = self.rule(link.source)
            ill = before.silent or before.delay or before.garble or before.drip
            if mine and (rule.closed or (before != rule and ill)):
                link.end()
        if source:
            self._by_source[source] = rule
        else:
            self._rule = rule

    async def _heal(self) -> None:
        for source in list(self._by_source):
            await self._set(Rule(), source)
        self._by_source.clear()
        await self._set(Rule(), None)

    def close(self) -> None:
        """End it; again is fine."""
        self._loop.call(self.end())

    async def end(self) -> None:
        """The same, in the loop's thread: no link stays, and who is let in meanwhile is shown out."""
        self._by_source.clear()
        self._rule = Rule(closed=True)
        await close_server(self._server)
        for link in list(self.links):
            link.end()


class _Near(asyncio.Protocol):
    """The client's side of one link. In the loop's thread only."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.source = ""
        self.transport: asyncio.Transport | None = None
        self._far: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._due: collections.deque[bytes] = collections.deque()
        self._last = 0.0
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.source = transport, transport.get_extra_info("peername")[0]
        self.gate.links.add(self)
        if self.gate.rule(self.source).closed:
            transport.abort()
            return
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            far, _ = await loop.create_connection(lambda: _Far(self), "127.0.0.1", self.gate.target)
        except OSError:
            self.end()
            return
        if self.transport is None:
            far.abort()
            return
        self._far = far
        for data in self._early:
            far.write(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.gate.rule(self.source).silent:
            return
        if self._far is None:
            self._early.append(data)
        elif not self._far.is_closing():
            self._far.write(data)

    def backward(self, data: bytes) -> None:
        """From the server to the client."""
        rule = self.gate.rule(self.source)
        if rule.silent or self.transport is None or self.transport.is_closing():
            return
        if rule.garble:
            data = bytes(byte ^ 0x55 for byte in data)
        if not (rule.delay or rule.drip or self._due):
            self.transport.write(data)
            return
        loop = asyncio.get_running_loop()
        pieces = [data[i : i + 1] for i in range(len(data))] if rule.drip else [data]
        for piece in pieces:
            self._last = max(self._last + (rule.drip or 0.0), loop.time() + rule.delay)
            self._due.append(piece)
            loop.call_at(self._last, self._pass_on)

    def _pass_on(self) -> None:
        if self._due:
            data = self._due.popleft()
            near = self.transport
            if near is not None and not near.is_closing() and not self.gate.rule(self.source).silent:
                near.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    def end(self) -> None:
        """Close both sides; again is fine."""
        self.gate.links.discard(self)
        for transport in (self.transport, self._far):
            if transport is not None:
                transport.abort()
        self.transport = self._far = None
        self._due.clear()


class _Far(asyncio.Protocol):
    """The server's side of one link."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def data_received(self, data: bytes) -> None:
        self._near.backward(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._near.end()
