"""More faults: memory that is full, rights that are missing, damaged entries, a night, an orderly end, signals.

Each public function is a kind of fault, as those of `faults.py` are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.plan import Plan
    from tests.sim.process import Process
    from tests.sim.world import World

__all__ = [
    "TROUBLES", "Interrupted", "close_process", "drawn", "full", "interrupt", "night", "no_more_signals", "refuse",
    "spoil", "spool_file", "take_spooled",
]  # fmt: skip

#: The kinds.
TROUBLES = ("full", "refuse", "spoil", "night", "close_process", "interrupt")
#: What rights can be missing for: the log, reads, and scripts. HMGET is none of the log's alone: scripts use it,
#: and a server refuses it within them, too.
RIGHTS = {
    "log": frozenset((b"XREAD",)),
    "reads": frozenset((b"GET", b"MGET")),
    "scripts": frozenset((b"EVALSHA", b"EVAL")),
}
#: How an entry is damaged.
DAMAGE = ("flipped", "cut", "foreign", "another type", "newer")
#: Where an exception of a signal handler is thrown in.
_OWN_CODE = tuple(
    os.sep + os.path.join("evercache", part) for part in ("client", "engine", "api", "near", "protocol", "codecs")
)
#: An exception that has found no line of a call within this time (seconds) is not thrown.
_ARMED = 0.2
#: Seconds after an interrupted call within which the background takes back what it owned; twice that, to be sure.
_RECLAIMED = 0.3


def full(world: World, node: int | str, for_: float) -> None:
    """A server is above `maxmemory`, and evicts nothing."""
    it = world.master if node == "m" else world.nodes[int(node) % len(world.nodes)]
    it.full_until = max(it.full_until, world.now + for_)


def refuse(world: World, process: int, what: str, for_: float) -> bool:
    """A right of one process's user is taken away at all servers, and given back."""
    end, name = world.now + for_, f"p{process}"
    for node in world.nodes:
        node.refusals.append((end, name, RIGHTS[what]))
    if what == "log":
        world.oracle.stalled(name, world.now, end)
    if what == "scripts":  # nothing can be asked of the master
        world.oracle.troubled(name, world.now, end)
    return bool(world.processes[process].tag.alive)


def spoil(world: World, which: float, how: str) -> bool:
    """An entry on the master is damaged, or something else lies in its place."""
    master = world.master
    entries = sorted(k for k in master.data.dbs[0] if k.startswith(b"sim:f:"))
    if not master.alive or not entries:
        return False
    key = entries[int(which * len(entries))]
    raw, expiry = master.data.dbs[0][key]
    if not isinstance(raw, bytes) or len(raw) < 40:
        return False
    value: Any = {
        "flipped": raw[:-1] + bytes([raw[-1] ^ 1]),
        "cut": raw[: len(raw) - 1],
        "foreign": b"of another program " * 4,
        "another type": {b"a": b"b"},
        "newer": raw[:2] + b"\x02" + raw[3:],
    }[how]
    effect = ("set", 0, key, value, expiry)
    master.data.apply(effect)
    master.record([effect])
    if how == "newer":
        world.oracle.judges.once.left_alone.add(key.decode())
    world.note(f"{key.decode()} is {how}")
    return True


def night(world: World, for_: float, dead: list[int], evening: int) -> None:
    """Hours in which nobody does anything. Before them much is invalidated, which nobody then reads; some
    processes end, and new ones are there in the morning."""
    for slot in range(evening):
        process = world.processes[slot % len(world.processes)]
        if process.tag.alive:
            process.last_thing()

    def falls() -> None:
        end = world.night_until = world.now + for_
        for slot, process in enumerate(list(world.processes)):
            if slot in dead:
                world.kill(slot)
                world.later(for_, lambda s=slot: world.be_born(s))  # type: ignore[misc]
            elif process.tag.alive:
                process.tag.suspend(world.now, for_)
                world.oracle.suspended(process.tag.name, world.now, end)

    world.later(0.02, falls)
    world.later(for_, lambda: _expired(world.master))


def _expired(master: Node) -> None:
    """A primary looks for what has expired, not only when it is asked for it: hours later all of that is gone."""
    now_us = master.now_us()
    gone: list[Any] = [
        ("del", db, key)
        for db, keys in master.data.dbs.items()
        for key, (_, expiry) in keys.items()
        if expiry is not None and expiry <= now_us
    ]
    for effect in gone:
        master.data.apply(effect)
    if gone:
        master.record(gone)


# -- an orderly end


def spool_file(plan: Plan) -> str | None:
    """The file of `spool=`, where a process ends in order."""
    if all(fault.kind != "close_process" for fault in plan.faults):
        return None
    path = os.path.join(tempfile.gettempdir(), f"evercache-sim-{os.getpid()}.spool")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return path


def close_process(world: World, process: int, after: float) -> bool:
    """A process closes its cache, which sends what is pending once more, and ends; later there is another one."""
    it = world.processes[process]
    if not it.tag.alive or it.closing:
        return False
    it.closing = True
    it.app.alive = it.crew.alive = False  # nothing of the application runs any more
    engine = it.engine
    waits = min(1.0, 2 * engine.settings.budget) if engine.state.ready else 0.0
    end = world.now + waits

    def drain() -> None:
        if it.tag.alive and engine.state.journal.pending and world.now < end:
            world.later(0.005, drain)
        else:
            close()

    def close() -> None:
        if it.tag.alive:
            engine._drain = lambda seconds: None  # it was done above, in simulated time
            engine.ended.set()
            it.context.run(it.cache.close)
            world.spooled |= set(engine.state.journal.pending)
            world.note(f"{it.name} closed with {len(engine.state.journal.pending)} pending")
            world.kill(process)
        world.later(after, lambda: world.be_born(process))

    engine.post(engine.chores.wake)
    drain()
    return True


def take_spooled(process: Process) -> None:
    """What the file of `spool=` held is pending in a process from now on, all of it."""
    world, pending = process.world, process.engine.state.journal.pending
    for id in sorted(world.spooled):
        it = world.oracle.by_id(id)
        if id not in pending:
            world.oracle.bad("spool", f"{process.name} did not find {id} of {it.scope if it else '?'} in the spool")
        elif it is not None:
            it.process, it.exempt = process, False
            it.returned = world.oracle.tick()
    world.spooled.clear()


# -- signals


class Interrupted(Exception):
    """What a signal handler raises, as Celery's soft time limit does."""


def _handler(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def interrupt(world: World, process: int, line: int) -> bool:
    """A signal handler raises in a call of the library: at one of the next lines that a visitor's task runs.

    A thread is not the main one, on which handlers run."""
    it = world.processes[process]
    if it.threads is not None:
        return False
    if threading.current_thread() is not threading.main_thread() or sys.gettrace() is not None:
        return False
    left = [line]

    def lines(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            left[0] -= 1
            if left[0] <= 0:
                disarm()
                world.note(f"{it.name} is interrupted in {frame.f_code.co_qualname}:{frame.f_lineno}")
                world.oracle.blocked(it.name, world.now, world.now + _RECLAIMED)
                _handler(signal.SIGUSR1, frame)
        return lines

    def calls(frame: FrameType, event: str, argument: Any) -> Any:
        inside = any(part in frame.f_code.co_filename for part in _OWN_CODE)
        return lines if inside and asyncio.current_task(world.loop) in it.visitors else None

    def disarm() -> None:
        if sys.gettrace() is calls:
            sys.settrace(None)

    signal.signal(signal.SIGUSR1, _handler)  # by its handler the library knows that an exception is a signal's
    world.later(_ARMED, disarm)
    sys.settrace(calls)
    return bool(it.tag.alive)


def no_more_signals() -> None:
    """The schedule is over."""
    if signal.getsignal(signal.SIGUSR1) is _handler:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        sys.settrace(None)


def drawn(kind: str, r: random.Random, processes: int, nodes: int) -> dict[str, Any]:
    """What is drawn for a fault."""
    match kind:
        case "full":
            return {"node": r.choice(["m", "m", r.randrange(nodes)]), "for_": r.uniform(0.2, 1.2)}
        case "refuse":
            return {"process": r.randrange(processes), "what": r.choice(list(RIGHTS)), "for_": r.uniform(0.1, 1.5)}
        case "spoil":
            return {"which": r.random(), "how": r.choice(DAMAGE)}
        case "night":
            return {
                "for_": r.choice([700.0, 2400.0, 7300.0]) * r.uniform(1.0, 1.1),
                "dead": sorted(r.sample(range(processes), r.choice([0, 1, processes]))),
                "evening": r.choice([0, 2, 4]),
            }
        case "close_process":
            return {"process": r.randrange(processes), "after": r.uniform(0.0, 0.4)}
        case _:
            return {"process": r.randrange(processes), "line": r.choice([r.randrange(1, 30), r.randrange(1, 300)])}
