"""The oracles that look into servers and processes, put together: each is told of what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim.acks import Acks
from tests.sim.audit import Audit
from tests.sim.budgets import Budgets
from tests.sim.issued import Issued
from tests.sim.ledger import Ledger
from tests.sim.once import Once
from tests.sim.prompt import Promptness
from tests.sim.shares import Shares
from tests.sim.warmth import Warmth

if TYPE_CHECKING:
    from evercache.protocol.journal import Pending
    from tests.sim.world import World

__all__ = ["Judges"]


class Judges:
    """One for each schedule; the oracle owns it."""

    def __init__(self, world: World) -> None:
        self.issued = Issued(world)
        self.acks = Acks(world, self.issued)
        self.audit = Audit(world, self.issued)
        self.warmth = Warmth(world, self.issued)
        self.promptness = Promptness(world)
        self.budgets = Budgets(world)
        self.ledger = Ledger(world)
        self.once = Once(world, self.warmth)
        self.shares = Shares(world)

    def __repr__(self) -> str:
        return f"<Judges {self.issued!r}>"

    def took(self, node: Any, words: list[bytes], effects: list[tuple[Any, ...]]) -> None:
        """A command had these effects on a primary; they are not in its history yet."""
        marks = self.issued.took(node, effects)
        self.warmth.took(node, words, effects, marks)
        if marks:
            self.audit.issued(node, marks)
        for mark in marks:
            self.promptness.issued(node, mark)

    def script(self, node: Any, name: str, reply: list[Any], words: list[bytes], before: Any) -> None:
        """A script has run on a node, without an error; see `Oracle.script`."""
        if name == "invalidate" and reply[0] == b"dup":
            self.issued.repeated(words, int(reply[3]))
        self.warmth.script(node, name, reply, words, before)
        self.ledger.script(name, reply, words)

    def began(self, process: Any, item: Pending) -> None:
        """A process begins an invalidation or a write."""
        self.warmth.began(item)
        self.acks.began(process, item.id)

    def final(self) -> list[tuple[str, str]]:
        """What is wrong when everything has come together: (promise, text)."""
        return [*self.audit.final(), *self.warmth.final(), *self.ledger.final()]
