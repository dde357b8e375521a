"""The nodes that an engine knows, for people: their roles, what each is used for, and how far behind it is."""

from __future__ import annotations

from evercache.engine.engine import Engine
from evercache.protocol.types import Address

__all__ = ["lag_of", "members", "undecided", "use_of"]


def members(engine: Engine) -> list[tuple[Address, str]]:
    """The nodes known now, with the role that each has."""
    view = engine.view
    master = [] if view.master is None else [(view.master, "master")]
    return master + [(address, "replica") for address in view.replicas]


def use_of(engine: Engine, address: Address, now: float) -> str:
    """What a node is used for, or why it is not."""
    state, replicas, bound = engine.state, engine.replicas, engine.settings.lag_bound
    if address == engine.view.master:
        if state.master_down or not state.ready:
            return "nothing: it does not serve as master now"
        return "writes" if replicas.admitted(state.tau, now, bound) else "writes and reads"
    replica = replicas.get(address)
    if replica is None:
        return "nothing: not looked at yet"
    if replica.admits(state.tau, now, bound):
        return "reads"
    if replica.open:
        return "nothing: it did not answer"
    why = "not in sync" if replica.standing.link_up else "its link to the master is down"
    if (state.master_down or engine.view.master is None) and replica.answers:
        return f"nothing: {why}; raw reads go on"
    return f"nothing: {why}"


def undecided(engine: Engine, now: float) -> bool:
    """Whether a replica is not used: after a resync it may be that nobody has looked at it since."""
    replicas = [address for address, role in members(engine) if role == "replica"]
    return any(use_of(engine, address, now).startswith("nothing") for address in replicas)


def lag_of(engine: Engine, address: Address, now: float) -> float | None:
    """Seconds behind the master, or None when that is not known."""
    if address == engine.view.master:
        return 0.0
    table = engine.monitor.table
    # Without a link nothing new arrives, and the master may have gone on for others.
    lag = table.lag_seconds(address, now) if table.standing(address).link_up else now - table.caught(address)
    return lag if lag < 1e6 else None
