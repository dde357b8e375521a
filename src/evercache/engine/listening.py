"""The log as another node than the present master has it: heard over a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from evercache.errors import ProtocolError, ServerError
from evercache.protocol.replies import LogLine, parse_log
from evercache.protocol.types import Address
from evercache.topology.facts import parse_replication

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["Source", "listen"]

_BLOCK = 0.25
_COUNT = 500


class Source(Struct, frozen=True):
    """A node as it must be, so that its log is the one in question."""

    address: Address
    master: bool
    generation: str

    def matches(self, role: str, generation: str) -> bool:
        """Whether a node that says this of itself is still it."""
        return (role == "master") is self.master and generation == self.generation


async def listen(
    engine: Engine,
    source: Source,
    position: Callable[[], str],
    hear: Callable[[Sequence[LogLine]], bool],
    wanted: Callable[[], bool],
) -> None:
    """Hear the lines behind `position` as they come, while that is `wanted`.

    Returns when there is nothing more to hear: the node has another role or another generation, refuses, says what
    cannot be read, or `hear` had enough (False). On the background's loop only; raises `UnavailableError` when the
    connection breaks.
    """
    connection = await engine.connect_tail(source.address)
    try:
        here = source.matches(connection.greeting.role, connection.greeting.replid)
        while here and wanted():
            log, info = await connection.execute(
                [
                    engine.commands.tail(position(), count=_COUNT, block_ms=int(_BLOCK * 1000)),
                    ("INFO", "replication"),
                ],
                engine.state.now() + 4 * _BLOCK,
            )
            if isinstance(log, ServerError) or isinstance(info, ServerError):
                return
            try:
                lines, facts = parse_log(log), parse_replication(info)
            except ProtocolError:
                return
            if lines and not hear(lines):
                return
            here = source.matches(facts.role, facts.replid)
    finally:
        connection.close()
