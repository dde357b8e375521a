"""The epochs of sentinels: no command shows them, but sentinels greet each other with them at the data nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from evercache.clock import monotonic
from evercache.errors import UnavailableError
from evercache.net.pipelined import PipelinedWire
from evercache.net.types import ConnectionOptions
from evercache.protocol.types import Address

__all__ = ["FAR", "GREETINGS", "RESET", "current_epochs", "trouble"]

#: The channel where sentinels greet each other. They obey the greeting with the highest epoch, so a user that may
#: publish there chooses the master.
GREETINGS: Final = "__sentinel__:hello"
#: How the epochs are reset; the page has the commands for each way of running sentinels.
RESET = (
    "stop all sentinels before the first is started again, as each passes it on; in the file of each, remove the "
    "lines `sentinel current-epoch`, `leader-epoch` and `config-epoch`; start them: docs/runbook.md#epochs"
)
#: Each greets every 2 s.
PERIOD = 2.0
#: An epoch counts elections (and changes of master that were ordered). No deployment sees so many.
FAR = 1_000_000


def current_epochs(
    nodes: Iterable[Address], options: ConnectionOptions, service: str, count: int, patience: float = PERIOD + 0.3
) -> tuple[dict[str, int], str]:
    """The epochs of so many sentinels of a service, by their ids, and why no more were heard (empty: all were).

    Listens at all nodes at once, `patience` seconds at most.
    """
    return asyncio.run(_listened(list(nodes), options, service, count, monotonic() + patience))


async def _listened(
    nodes: list[Address], options: ConnectionOptions, service: str, count: int, end: float
) -> tuple[dict[str, int], str]:
    found: dict[str, int] = {}
    errors: list[str] = []
    wire = PipelinedWire()

    async def listen(node: Address) -> None:
        try:
            connection = await wire.connect(node, options, end)
            try:
                await connection.execute([("SUBSCRIBE", GREETINGS)], end)
                while True:
                    ident, epoch, name = _greeting((await connection.next_push())[-1])
                    if name == service:
                        found[ident] = epoch
            finally:
                connection.close()
        except UnavailableError as error:
            errors.append(f"{node}: {str(error).removeprefix(f'{node}: ')}")

    tasks = [asyncio.ensure_future(listen(node)) for node in nodes]
    try:
        while len(found) < count and monotonic() < end and not all(task.done() for task in tasks):
            await asyncio.sleep(0.02)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if len(found) >= count:
        return found, ""
    silent = f"{count - len(found)} of {count} sentinels greeted nobody for {PERIOD:g} s"
    return found, errors[0] if errors and not found else silent


def _greeting(data: object) -> tuple[str, int, str]:
    """Id, epoch and service in a greeting: address, port, id, epoch, and what the sentinel says of the master."""
    words = data.decode(errors="replace").split(",") if isinstance(data, bytes) else []
    known = len(words) == 8 and words[3].isdecimal() and len(words[3]) <= 20
    return (words[2], int(words[3]), words[4]) if known else ("", 0, "")


def trouble(current: int | None, config: int) -> str:
    """Why no sentinel can be elected any more, or soon; empty where nothing speaks against it.

    `current`: of a sentinel; None: not known. `config`: that of the change of master which it knows.
    """
    if config > FAR:
        return f"its configuration epoch is {config}, which counts changes of master: later ones are ignored"
    if current is not None and current - config > FAR:
        return f"its epoch is {current}, and that of the last change of master {config}: none is elected any more"
    return ""
