"""Whether the cache stays warm: nothing is invalidated, removed or computed again without a reason.

Each mark that a server issues, and each one that a process knows, must be somebody's invalidation. An entry that no
mark covers, and whose time is not over, must be served.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from tests.sim.audit import function_of
from tests.sim.entries import Entry
from tests.sim.issued import Issued, Mark
from tests.sim.preemption import command_name

if TYPE_CHECKING:
    from evercache.protocol.journal import Pending
    from evercache.protocol.scope import Scope
    from tests.sim.world import World

__all__ = ["Warmth"]

#: What makes a server, or whoever begins its bookkeeping anew, invalidate everything (rule 18).
_LOSSES = ("evict", "flush", "restart_master", "failover")
#: Digits of the id of an invalidation.
_ID = 16
#: Scripts that may remove their entry; sweeps are judged elsewhere.
_REMOVE = ("invalidate", "sweep")

#: Threads of a process may have to wait for one of so many connections.
_SMALL_POOL = 2
#: Faults after which the server may refuse what was computed, or its call never sends it.
_UNSTORED = ("full", "refuse", "spoil", "interrupt", "close_process", "night")


class Warmth:
    """Judges five things.

    - A mark is issued only for an invalidation that a process began, or where the protocol says that nobody knows
      any more what was invalidated (bookkeeping that is missing, a journal or a queue that is full).
    - A command removes no entry but its own, and only an invalidation or a sweep does.
    - The primary neither grants a lease nor reports a miss for an entry that no mark covers and that is within its
      time.
    - What is computed under a lease by an undisturbed process is stored, unless it was invalidated meanwhile.
    - A process knows no mark that was never issued.
    """

    def __init__(self, world: World, issued: Issued) -> None:
        self._world, self._issued = world, issued
        #: Id of an invalidation -> what it is to cover.
        self._begun: dict[str, Scope] = {}
        #: When a primary began to refuse fills last, or to take them again.
        self._released = -inf

    def __repr__(self) -> str:
        return f"<Warmth {len(self._begun)} begun>"

    def _bad(self, text: str) -> None:
        self._world.oracle.bad("warmth", text)

    def began(self, item: Pending) -> None:
        """A process begins an invalidation or a write."""
        self._begun[item.id] = item.scope

    # -- effects

    def took(self, node: Any, words: list[bytes], effects: list[tuple[Any, ...]], marks: list[Mark]) -> None:
        """A command had these effects on a primary, and issued these marks."""
        name = command_name(words)
        for mark in marks:
            scope = self._begun.get(mark.id)
            asked = self._may_begin(mark) if scope is None else (scope.kind, scope.name) == (mark.kind, mark.name)
            if not asked:
                self._bad(f"{name} at node {node.index} issued {mark}, and nobody asked for it")
        for effect in effects:
            match effect[0]:
                case "del":
                    self._removed(node, name, words, effect[2])
                case "flush":
                    self._bad(f"{name} emptied node {node.index}")
                case "hset":
                    if b"*" in effect[3]:
                        self._everything(node, name, int(effect[3][b"*"]), effects)
                    if name == "resync" and b"life" in effect[3]:
                        self._world.oracle.begun_by_resync.add(node.replid)
                    if b"held" in effect[3]:
                        self._released = self._world.now

    def _lost(self) -> bool:
        return any(self._world.happened[kind] for kind in _LOSSES)

    def _may_begin(self, mark: Mark) -> bool:
        limits = self._world.plan.limits
        if "~" in mark.id:  # several that waited were merged
            return limits["pending"] < 1000
        if mark.kind != "*":
            # A change whose block ended without a word is ended by the background; and a handler may raise where
            # an invalidation has just begun.
            return bool(self._world.plan.workload["changes"] or self._world.happened["interrupt"])
        # A life of the bookkeeping gives it its own name, which is longer than that of an invalidation.
        if len(mark.id) > _ID:
            return self._lost()
        # What the journal forgot, for want of room or after its time, may have been lost (rule 20).
        return limits["journal"] < 1000 or "journal_time" in limits or bool(self._world.happened["night"])

    def _removed(self, node: Any, name: str, words: list[bytes], key: bytes) -> None:
        own = words[3 : 3 + int(words[2])] if words[0].upper() in (b"EVALSHA", b"EVAL") else []
        if key not in own:
            self._bad(f"{name} at node {node.index} removed {key.decode()}")

    def _everything(self, node: Any, name: str, stamp: int, effects: list[tuple[Any, ...]]) -> None:
        """The mark of everything was raised: by a mark in the log, or for one of the reasons of rule 18."""
        known = self._issued.newest
        if stamp <= known["*", ""]:
            return
        begun = any(e[0] == "hset" and b"life" in e[3] for e in effects)
        folded = stamp <= self._issued.newest_folded and any(e[0] == "zrem" for e in effects)
        # The caller knew of stamps that are not known here: of a life that was evicted or flushed, or of a leap
        # that was lost as its node was demoted at once and whose clock was ahead.
        unknown = any(e[0] == "hset" and b"silent" in e[3] for e in effects)
        # The bookkeeping was begun anew beside entries of a life before it, and this is the next generation.
        remained = any(e[0] == "hdel" and b"anew" in e[3] for e in effects)
        if not folded and not ((begun or unknown or remained) and self._lost()):
            self._bad(f"{name} at node {node.index} invalidated everything below {stamp}, and nobody asked for it")
        known["*", ""] = stamp

    # -- scripts

    def script(self, node: Any, name: str, reply: list[Any], words: list[bytes], before: Any) -> None:
        """A script has run on a node; `before`: its entry and the tip before."""
        if before[0] is None:
            return
        if name not in _REMOVE and node.data.find(0, words[5], node.now_us()) is None:
            self._bad(f"{name} at node {node.index} removed {words[5].decode()}")
        if name != "lease" or reply[0] not in (b"lead", b"miss"):
            return
        entry = Entry.of(before[0])
        args = [word.decode("latin-1") for word in words[7:]]
        count = int(args[7])
        tags, (seen, take) = args[8 : 8 + count], (args[10 + count], args[12 + count])
        if entry is None or entry.id == seen or entry.stamp > before[1]:
            return
        end = entry.soft if take == "1" else entry.hard
        newest = self._issued.covering(words[5].decode(), args[6], (*tags, *entry.tags))
        if node.now_us() // 1000 >= end or entry.stamp < newest or self._widened(entry, int(args[5]), before[1]):
            return
        self._bad(f"{reply[0].decode()} for {words[5].decode()}, which has {entry}; marks over it: {newest}")

    def _widened(self, entry: Entry, least: int, tip: int) -> bool:
        """Whether its caller may ask for more than the marks say: those that it has forgotten count as well, and so
        does its last resync where the tip is below that, in a life that knows nothing of the one before."""
        world = self._world
        forgets = world.plan.limits["marks"] < 1000 or any(world.happened[k] for k in ("block_loop", "suspend"))
        anew = least > tip and self._lost()
        wider = forgets or anew or bool(world.plan.holds)
        return world.plan.workload["other_db"] or (least > entry.stamp and wider)

    def computed(self, process: Any, token: str, key: str) -> None:
        """What was computed under a lease was to be stored: its call goes on only after that."""
        world, oracle = self._world, self._world.oracle
        grant = oracle.leases.grants.get(token)
        if grant is None or grant.stored or any(world.happened[kind] for kind in _UNSTORED):
            return
        work = world.plan.workload
        if function_of(key) == "h" and (work.get("picky") or work.get("errors")):
            return  # it says itself what is not cached, and for how long
        since = grant.granted - 0.1
        if not oracle.undisturbed(process, since, world.now) or self.held(grant.granted) or self.waits(process):
            return
        tags = [scope[1] for scope in self._issued.newest if scope[0] == "t"]
        if self._issued.covering(key, function_of(key), tags) > grant.stamp:
            return
        self._bad(f"{process.name} computed {key} under {token}, and did not store it")

    def waits(self, process: Any) -> bool:
        """Whether a strict write of the process has a connection of a pool so small that others want it, while it
        waits for replicas (`WAIT`), or had until its time was over. Those of tasks have one of their own."""
        if not self._world.strict or process.threads is None or self._world.plan.workload["pool"] > _SMALL_POOL:
            return False
        return process.unacknowledged > self._world.now - self._world.budget or any(
            session.client.tag is process.tag and session.queue[0][0].commands[-1][0] == b"WAIT"
            for node in self._world.nodes
            for session in node.parked
            if session.queue
        )

    def held(self, since: float) -> bool:
        """Whether fills were refused at some moment since then."""
        passed = int((self._world.now - since) * 1e6)
        return self._released >= since or any(
            node.role == "master" and _latest_hold(node) >= (node.now_us() - passed) // 1000  # as servers count
            for node in self._world.nodes
        )

    # -- processes

    def final(self) -> list[tuple[str, str]]:
        """Marks that were never issued, in the processes."""
        found = []
        newest = self._issued.newest
        for process in self._world.processes:
            if not process.tag.alive:
                continue
            marks = process.engine.state.marks
            known = [
                (("*", ""), marks.everything, newest["*", ""]),
                (("tags", "folded"), marks.tag_floor, self._issued.newest_folded),
                *((("f", name), stamp, newest["f", name]) for name, stamp in marks.functions.items()),
                *((("t", tag.hex()), stamp, newest["t", tag.hex()]) for tag, stamp in marks.tags.items()),
                *((("k", key), stamp, newest["k", key]) for key, (stamp, _) in marks.keys.items()),
            ]
            for scope, stamp, most in known:
                if stamp > most:
                    found.append(("warmth", f"{process.name} has a mark {stamp} of {scope}; issued was {most}"))
        return found


def _latest_hold(node: Any) -> int:
    """Until when (ms of its clock) this server refuses fills."""
    states = (node.data.find(db, b"sim~state", node.now_us()) or {} for db in (0, 1))
    return max(int(state.get(b"held", 0)) for state in states)
