"""How each kind of fault is brought about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.sim import troubles
from tests.sim.entries import Entry
from tests.sim.loop import Tag
from tests.sim.node import Node
from tests.sim.sentinels import Sentinel

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["bring_about"]

#: After the last part of a change of master, until everybody must have learnt of it (seconds).
GRACE = 2.0
#: A loop that is to be blocked at a certain moment is so within this time, or not at all (seconds).
_BLOCKS_WITHIN = 0.6
#: Between the choice of the next master and its promotion (seconds).
CHOSEN = 0.06


def bring_about(world: World, kind: str, args: dict[str, Any]) -> bool:
    """Begin a fault now; False if it found nothing to disturb (a master that is down cannot be flushed)."""
    return (getattr(troubles, kind, None) or globals()[f"_{kind}"])(world, **args) is not False


def _node(world: World, which: int | str) -> Node:
    return world.master if which == "m" else world.nodes[int(which) % len(world.nodes)]


def _lag(world: World, node: int, for_: float, seconds: float) -> None:
    _node(world, node).lags.append((world.now, world.now + for_, seconds))


def _link_cut(world: World, node: int, for_: float, seen: bool) -> None:
    _node(world, node).cuts.append((world.now, world.now + for_, seen))


def _wall(world: World, process: int, server: int | str | None, way: str, for_: float) -> None:
    name, end = f"p{process}", world.now + for_
    if server == "s":
        for sentinel in world.sentinels:
            for pair in ((name, sentinel.address.host), (sentinel.address.host, name)):
                world.network.walls.append((world.now, end, *pair))
        world.oracle.troubled(name, world.now, end)
        return
    target = None if server is None else _node(world, server).address.host
    if way in ("both", "out"):
        world.network.walls.append((world.now, end, name, target))
    if way in ("both", "in"):
        world.network.walls.append((world.now, end, target, name))
    if server is None or target == world.master.address.host:
        world.oracle.troubled(name, world.now, end)


def _sentinel_wall(world: World, process: int, sentinel: int, for_: float) -> bool:
    """One process and one sentinel do not reach each other; that excuses nothing where there are others."""
    if not world.sentinels:
        return False
    if len(world.sentinels) == 1:
        world.oracle.troubled(f"p{process}", world.now, world.now + for_)
    name, host = f"p{process}", world.sentinels[sentinel % len(world.sentinels)].address.host
    for pair in ((name, host), (host, name)):
        world.network.walls.append((world.now, world.now + for_, *pair))
    return True


def _tail_stall(world: World, process: int, for_: float) -> bool:
    tail = world.processes[process].engine.tail._connection
    if tail is None:
        return False
    tail.stalled_until = world.now + for_
    world.oracle.stalled(f"p{process}", world.now, tail.stalled_until)
    return True


def _slow(world: World, process: int, for_: float, seconds: float) -> None:
    world.network.slow.append((world.now, world.now + for_, f"p{process}", seconds))
    world.oracle.troubled(f"p{process}", world.now, world.now + for_ + seconds)


def _breaks(world: World, for_: float, share: float) -> None:
    world.network.breaking = share
    world.oracle.disturbed(world.now, world.now + for_)
    world.later(for_, lambda: setattr(world.network, "breaking", 0.0))


def _freeze_node(world: World, node: int | str, for_: float) -> None:
    it = _node(world, node)
    it.frozen_until = max(it.frozen_until, world.now + for_)
    if it.role == "master":
        world.oracle.disturbed(world.now, world.now + for_)


def _stop_process(world: World, process: int, for_: float) -> None:
    tag = world.processes[process].tag
    tag.stop(world.now + for_)
    world.oracle.troubled(tag.name, world.now, world.now + for_)


def _suspend(world: World, process: int, for_: float) -> None:
    """The machine of a process is suspended."""
    tag = world.processes[process].tag
    tag.suspend(world.now, for_)
    world.oracle.suspended(tag.name, world.now, world.now + for_)


def _block_loop(world: World, process: int, for_: float, when: str) -> bool:
    """The event loop of the application stands still; the background goes on. `when`: "now", or as soon as it has
    sent a "read", or one to a server whose entry is "stale" by what the process knows."""
    it, end = world.processes[process], world.now + _BLOCKS_WITHIN

    def block() -> None:
        it.app.block(world.now + for_)
        world.oracle.blocked(it.name, world.now, world.now + for_)
        world.note(f"{it.name} is blocked until {world.now + for_:.4f}")

    def sent(tag: Tag | None, server: Any, words: list[bytes]) -> None:
        due = (
            tag is it.app and words[0] in (b"GET", b"MGET") and (when == "read" or _is_stale(it, server, words[1:]))
        )
        if due:
            block()
        if due or world.now > end:
            world.network.sending.remove(sent)

    if when == "now":
        block()
    else:
        world.network.sending.append(sent)
    return bool(it.tag.alive)


def _is_stale(process: Any, node: Node, keys: list[bytes]) -> bool:
    """Whether a node would answer with an entry that this process knows to be invalidated."""
    node.pull()
    for key in keys:
        mark, entry = process.engine.state.marks.keys.get(key.decode()), Entry.of(node.data.find(0, key, 0))
        if mark is not None and entry is not None and entry.stamp < mark[0]:
            return True
    return False


def _kill_process(world: World, process: int, after: float) -> bool:
    alive = bool(world.processes[process].tag.alive)
    world.kill(process)
    world.later(after, lambda: world.be_born(process))
    return alive


def _fork_process(world: World, process: int, parent_ends: bool) -> bool:
    alive = bool(world.processes[process].tag.alive)
    world.fork(process, parent_ends)
    return alive


def _burst(world: World, process: int, count: int) -> bool:
    world.processes[process].burst(count)
    return bool(world.processes[process].tag.alive)


def _script_flush(world: World) -> None:
    world.master.known_scripts.clear()


def _sentinel_down(world: World, sentinel: int, for_: float, frozen: bool) -> bool:
    if not world.sentinels:
        return False
    it = world.sentinels[sentinel % len(world.sentinels)]
    world.oracle.disturbed(world.now, world.now + for_)
    if frozen:
        it.frozen_until = world.now + for_
        return True
    it.alive, it.died = False, world.now
    for session in sorted(it.sessions, key=lambda s: s.number):
        session.reset()
    world.later(for_, lambda: setattr(it, "alive", True))
    return True


def _clock_step(world: World, node: int, seconds: float) -> None:
    it = _node(world, node)
    it.skew_us += int(seconds * 1e6)
    world.oracle.clock_stepped(world.now, of_master=it is world.master)


def _flush(world: World) -> bool:
    master = world.master
    if not master.alive or world.two_masters:
        return False  # of two masters the former one may begin a life above the other's: rule 1
    world.oracle.lost_data("flush", world.now, world.now + GRACE).complete = True
    world.oracle.flushed(master)
    effect = ("flush", None, None)
    master.data.apply(effect)
    master.record([effect])
    return True


def _evict(world: World, keys: list[str]) -> bool:
    """Parts of the bookkeeping go, as under `allkeys-lru`; the entries stay, and all that was promised of them."""
    master = world.master
    if not master.alive:
        return False
    world.oracle.evicted(master, "state" in keys)
    db = master.data.book()
    for name in keys:
        effect = ("del", db, f"sim~{name}".encode())
        master.data.apply(effect)
        master.record([effect])
    return True


def _replica_restart(world: World, node: int, down: float, lost: float | None, sync: float) -> bool:
    it = _node(world, node)
    if it.role != "slave" or not it.alive:
        return False
    it.stop()

    def up() -> None:
        if it.alive or it.role != "slave":
            return
        it.restart(lost=lost, as_master=False)
        it.linked = False
        world.copy_later(it, sync)

    world.later(down, up)
    return True


def _restart_master(world: World, down: float, lost: float | None, sync: list[float]) -> bool:
    it = world.master
    if not it.alive:
        return False
    window = world.oracle.lost_data("restart", world.now, world.now + down + max(sync) + GRACE)
    it.stop()

    def up() -> None:
        if it.alive or it is not world.master:
            return
        it.restart(lost=lost, as_master=True)
        for replica in world.nodes:
            if replica.alive and replica.role == "slave" and replica.source is it and not replica.follow(it):
                world.copy_later(replica, sync[replica.index % len(sync)])
        window.complete = True

    world.later(down, up)
    return True


def _failover(
    world: World,
    mode: str,
    detect: float,
    best: bool,
    pick: int,
    late: list[float],
    repoint: list[float],
    sync: list[float],
    back: float,
    clock: float,
) -> bool:
    old = world.master
    if not old.alive or world.failing_over or len(world.nodes) < 2:
        return False
    if mode == "mistaken" and not world.sentinels:
        mode = "planned"
    world.failing_over, world.two_masters = True, mode in ("mistaken", "isolated")
    sync = [sync[i % len(sync)] for i in range(len(world.nodes))]
    repoint = [repoint[i % len(repoint)] for i in range(len(world.nodes))]
    late = [late[i % len(late)] for i in range(len(world.sentinels))]
    wait = 0.0 if mode == "planned" else detect
    last = world.now + wait + CHOSEN + max(0.0, *late, back + max(sync), max(repoint) + max(sync))
    window = world.oracle.lost_data("failover", world.now, last + GRACE)
    if mode == "crash":
        old.stop()
    elif mode == "frozen":
        old.frozen_until = max(old.frozen_until, world.now + detect + back)
    elif mode == "isolated":
        for node in world.nodes:
            if node is not old:
                node.cuts.append((world.now, world.now + detect + CHOSEN + 0.01, True))
    epoch = world.epoch + 1
    # The sentinel that knows first leads the failover: who asks it can know before it does.
    pairs = zip(late, world.sentinels, strict=True)
    leader = min(pairs, key=lambda pair: (not pair[1].alive, pair[0]), default=(0.0, None))[1]
    if wait and leader is not None:
        world.later(wait * 0.6, lambda: _down(world, old, leader, epoch, alone=mode == "mistaken"))

    def select() -> None:
        able = [
            n for n in world.nodes if n is not old and n.alive and n.role == "slave" and n.linked and not n.loading
        ]
        able = able or [n for n in world.nodes if n is not old and n.alive and n.role == "slave" and not n.loading]
        if not able:
            world.failing_over = world.two_masters = False
            _up(world, old)
            if not old.alive:
                old.restart(lost=0.0, as_master=True)
                for node in world.nodes:
                    if node is not old and node.alive and node.role == "slave" and not node.follow(old):
                        world.copy_later(node, sync[node.index])
            window.complete = True
            return
        for node in able:
            node.pull()
        new = max(able, key=lambda n: n.offset) if best else able[pick % len(able)]
        if leader is not None:
            leader.choose(epoch, new.address)
        world.later(CHOSEN, lambda: promote(new))

    def promote(new: Node) -> None:
        if not new.alive or new.role != "slave" or new.loading:
            select()  # it was lost meanwhile
            return
        new.frozen_until = min(new.frozen_until, world.now)
        new.promote()
        new.skew_us += int(clock * 1e6)
        if new.skew_us != old.skew_us:
            world.oracle.clock_stepped(world.now, of_master=True)
        world.master, world.epoch = new, epoch
        for begin, end, a, b in world.network.walls:
            if begin <= world.now < end and new.address.host in (a, b):
                world.oracle.troubled(str(b if a == new.address.host else a), world.now, end)
        world.note(f"node {new.index} promoted at offset {new.offset}, {old.index} was at {old.offset} ({mode})")
        for sentinel, seconds in zip(world.sentinels, late, strict=True):
            world.later(seconds, lambda s=sentinel: s.believe(epoch, new.address))
        if world.sentinels:
            world.told[epoch] = world.now + min(late)
        for node in world.nodes:
            if node is not new and node is not old:
                world.later(repoint[node.index], lambda n=node: world.repoint(n, new, sync[n.index]))
        world.later(back, demote)

    def demote() -> None:
        if old is world.master:
            return
        if not old.alive:
            old.restart(lost=0.0, as_master=False)
        world.repoint(old, world.master, sync[old.index])
        world.failing_over = world.two_masters = False
        window.complete = True

    world.later(wait, select)
    return True


def _down(world: World, node: Node, leader: Sentinel, epoch: int, *, alone: bool) -> None:
    """A sentinel is elected: the master is down for all of them, or for it alone (a quorum agreed before)."""
    for sentinel in world.sentinels:
        if sentinel.master == node.address and not alone:
            for name in ("s_down", "o_down"):
                sentinel.flag(name, True)
    if leader.master == node.address:
        leader.lead(epoch)


def _up(world: World, node: Node) -> None:
    """The failover is given up."""
    for sentinel in world.sentinels:
        if sentinel.master == node.address:
            for name in ("s_down", "o_down", "failover_in_progress"):
                sentinel.flag(name, False)
            sentinel.chosen = None
