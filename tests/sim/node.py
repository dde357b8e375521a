"""A simulated data node: its data, its role, its history, and how it follows another one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evercache.errors import ServerError
from evercache.net.resp import error_from
from evercache.protocol.scripts import SCRIPTS
from evercache.protocol.types import Address
from tests.sim.lua import LuaHost, Refused
from tests.sim.store import Data, Effect, Writer, parse_id

if TYPE_CHECKING:
    from tests.sim.network import Session

__all__ = ["EPOCH", "Node"]

#: Replicas tell this often what they have (seconds), while somebody waits for it.
_ACKS = 0.002
#: What the clocks of the servers show (seconds) when a schedule begins.
EPOCH = 1_700_000_000

_NAMES = {script.sha: name for name, script in SCRIPTS.items()}
_SHAS = {script.text: script.sha for script in SCRIPTS.values()}


class Node:
    """One server. `history` holds what it did: (time, effects of one command or script)."""

    def __init__(
        self,
        index: int,
        loop: Any,
        lua: LuaHost,
        rng: random.Random,
        observe: Callable[[Node, str, Any, list[bytes], Any], None],
    ) -> None:
        self.index = index
        self.address = Address(f"10.0.0.{index + 1}")
        self._loop, self._lua, self._rng = loop, lua, rng
        self._observe = observe
        self.skew_us = 0
        self.alive = True
        self.loading = False
        self.frozen_until = 0.0
        self.role = "master"
        self.run_id = self._hex()
        self.replid = self._hex()
        self.replid2, self.second_offset = "", -1
        self.data = Data()
        self.base, self.base_data = 0, Data()
        self.history: list[tuple[float, tuple[Effect, ...]]] = []
        self.known_scripts: set[str] = set()
        self.source: Node | None = None
        self.linked = False
        #: (begin, end, seconds) of spells in which it lags; outside them `base_lag`.
        self.lags: list[tuple[float, float, float]] = []
        #: Spells in which the link to its master is cut, and whether it says so.
        self.cuts: list[tuple[float, float, bool]] = []
        self.base_lag = rng.choice([0.0005, 0.001, 0.003, 0.02])
        self.sessions: set[Session] = set()
        self.parked: set[Session] = set()
        self.priority = 100
        #: Until when it is above `maxmemory`; and (until, process, commands): what it refuses to whom.
        self.full_until = 0.0
        self.refusals: list[tuple[float, str, frozenset[bytes]]] = []
        #: Told of the effects of each command before they are in the history.
        self.took: Callable[[Node, list[bytes], list[Effect]], None] = lambda *_: None

    def __repr__(self) -> str:
        state = "up" if self.alive else "down"
        return f"<Node {self.index} {self.role} {state} offset={self.offset} {self.replid[:6]}>"

    def _hex(self) -> str:
        return f"{self._rng.getrandbits(160):040x}"

    @property
    def now(self) -> float:
        return self._loop.now

    def now_us(self) -> int:
        """Its own clock."""
        return int((EPOCH + self._loop.now) * 1e6) + self.skew_us

    @property
    def offset(self) -> int:
        """Of replication: one for each item of its history."""
        return self.base + len(self.history)

    # -- replication

    def lag(self) -> float:
        """Seconds behind its master now."""
        now = self.now
        return max([seconds for begin, end, seconds in self.lags if begin <= now < end], default=self.base_lag)

    def _cut(self) -> bool | None:
        """None: no cut; otherwise whether the node notices it."""
        now = self.now
        return next((seen for begin, end, seen in self.cuts if begin <= now < end), None)

    @property
    def link_up(self) -> bool:
        """As it says itself."""
        source = self.source
        return self.linked and source is not None and source.alive and not self._cut()

    def pull(self) -> None:
        """Take over what has arrived by now."""
        if self.role == "master":
            return
        source, now = self.source, self.now
        if (
            not self.alive or not self.linked or source is None or not source.alive
            or source.role != "master" or source.replid != self.replid or self._cut() is not None
            or self.frozen_until > now
        ):  # fmt: skip
            return
        until, items = now - self.lag(), source.history
        at = self.offset - source.base
        before = at
        while at < len(items) and items[at][0] <= until:
            self._take(items[at])
            at += 1
        if at > before:
            self.wake()

    def _take(self, item: tuple[float, tuple[Effect, ...]]) -> None:
        for effect in item[1]:
            self.data.apply(effect)
        self.history.append(item)

    def follow(self, source: Node) -> bool:
        """Become a replica of `source`; True when what it has fits, else a full copy is needed."""
        was_master = self.role == "master"
        self.role, self.source = "slave", source
        fits = (
            not was_master
            and self.replid in (source.replid, source.replid2)
            and (self.replid == source.replid or self.offset <= source.second_offset)
            and source.base <= self.offset <= source.offset
        )
        if fits:
            self.replid, self.linked = source.replid, True
        else:
            self.linked = False
        if was_master:
            self.drop_parked()
        return fits

    def copy_from(self, source: Node) -> None:
        """The end of a full resync."""
        self.data = source.data.copy()
        self.base = source.offset
        self.base_data = self.data.copy()
        self.history = []
        self.replid, self.linked, self.loading = source.replid, True, False
        self.replid2 = ""

    def promote(self) -> None:
        """Become a master: a new replication id; the old one leads up to here."""
        self.pull()
        self.replid2, self.second_offset = self.replid, self.offset
        self.replid = self._hex()
        self.role, self.source, self.linked = "master", None, False
        self.drop_parked()

    def restart(self, *, lost: float | None, as_master: bool) -> None:
        """A new process; `lost` seconds of its history are gone, None: all of it."""
        self.run_id = self._hex()
        self.known_scripts.clear()
        if lost is None:
            self.data, self.history, self.base, self.base_data = Data(), [], 0, Data()
        else:
            until = self.now - lost
            kept = [item for item in self.history if item[0] <= until]
            self.data, self.history = self.base_data.copy(), []
            for item in kept:
                self._take(item)
        if as_master:
            self.role, self.source, self.linked = "master", None, False
            self.replid, self.replid2 = self._hex(), ""
        self.alive = True

    def stop(self) -> None:
        """The process ends: every connection breaks."""
        self.alive = False
        self.loading = False
        for session in sorted(self.sessions, key=lambda s: s.number):
            session.reset()

    def drop_parked(self) -> None:
        """A change of role breaks blocked reads, and only those."""
        for session in sorted(self.parked, key=lambda s: s.number):
            session.unblock(error_from("UNBLOCKED force unblock from blocking operation, instance state changed"))
            session.reset()

    # -- commands

    def info(self) -> bytes:
        """INFO replication."""
        master = self.role == "master"
        lines = [f"role:{self.role}", f"master_replid:{self.replid}", f"master_replid2:{self.replid2 or '0' * 40}"]
        if master:
            followers = [n for n in self.followers() if n.link_up]
            lines += [f"slave{i}:ip={n.address.host},port=6379,state=online" for i, n in enumerate(followers)]
            lines.append(f"master_repl_offset:{self.offset}")
        else:
            lines.append(f"master_link_status:{'up' if self.link_up else 'down'}")
            lines.append(f"master_sync_in_progress:{int(self.loading)}")
            lines.append(f"slave_repl_offset:{self.offset}")
            lines.append(f"slave_priority:{self.priority}")
            if self.source is not None:
                lines += [f"master_host:{self.source.address.host}", "master_port:6379"]
        return "\r\n".join(lines).encode()

    followers: Callable[[], list[Node]] = staticmethod(list)

    def writer(self, db: int, emit: Callable[[Effect], None]) -> Writer:
        return Writer(
            self.data, db, self.now_us(), self.role != "master", emit, self.info, self.full_until > self.now
        )

    def execute(self, session: Session, words: list[bytes]) -> Any:
        """One command at the present moment; the reply, or None for a read that is parked."""
        self.pull()
        name = words[0].upper()
        if self.loading and name not in (b"INFO", b"ROLE", b"PING"):
            return error_from("LOADING Valkey is loading the dataset in memory")
        if self.refusals and any(
            self.now < until and session.client.tag.name == who and name in names
            for until, who, names in self.refusals
        ):
            return error_from(
                f"NOPERM User default has no permissions to run the '{name.decode().lower()}' command"
            )
        effects: list[Effect] = []

        def emit(effect: Effect) -> None:
            self.data.apply(effect)
            effects.append(effect)

        writer = self.writer(session.db, emit)
        try:
            match name:
                case b"EVALSHA" | b"EVAL":
                    return self._script(name, words, writer)
                case b"ROLE":
                    return [b"master", self.offset, []] if self.role == "master" else [b"slave"]
                case b"WAIT":
                    return self._wait(session, int(words[1]), int(words[2]) / 1000)
                case b"XREAD":
                    return self.read_log(session, words)
                case b"SELECT":
                    session.db = int(words[1])
                    return b"OK"
                case _:
                    return writer.call(name, words[1:])
        except Refused as error:
            return error_from(str(error))
        finally:
            if effects:
                self.took(self, words, effects)
                self.record(effects)

    def record(self, effects: list[Effect]) -> None:
        """Into the history, which replicas follow."""
        if self.role != "master":
            return
        self.history.append((self.now, tuple(effects)))
        if any(e[0] in ("xadd", "flush") for e in effects):
            self.wake()

    def _script(self, name: bytes, words: list[bytes], writer: Writer) -> Any:
        sha = words[1].decode() if name == b"EVALSHA" else _SHAS[words[1].decode()]
        if name == b"EVALSHA" and sha not in self.known_scripts:
            return error_from("NOSCRIPT No matching script.")
        self.known_scripts.add(sha)
        count = int(words[2])
        keys, args = words[3 : 3 + count], words[3 + count :]
        state = self.data.find(int(args[3]), keys[1], writer.now_us) or {}
        entries = [self.data.find(0, key, writer.now_us) for key in keys[5 : 5 + (count - 5) // 2]]
        before = entries, int(state.get(b"tip", 0))
        reply = self._lua.run(sha, keys, args, writer.call)
        if not isinstance(reply, ServerError):
            self._observe(self, _NAMES[sha], reply, words[3:], before)
        return reply

    def _wait(self, session: Session, replicas: int, seconds: float) -> Any:
        """WAIT: until so many replicas have what is written by now, or for so long; how many have it."""
        offset = self.offset

        def have() -> int:
            for node in self.followers():
                node.pull()
            return sum(n.linked and n.offset >= offset for n in self.followers())

        def enough() -> int | None:
            return count if (count := have()) >= replicas else None

        if (count := enough()) is not None:
            return count
        session.park(enough, seconds, have, _ACKS)
        return session

    # -- the log

    def read_log(self, session: Session, words: list[bytes]) -> Any:
        """XREAD COUNT n [BLOCK ms] STREAMS key id."""
        options = [w.upper() for w in words[:-2]]
        count = int(words[options.index(b"COUNT") + 1])
        key, position = words[-2], parse_id(words[-1])
        stream = self.data.find(session.db, key, self.now_us())
        lines = stream.after(position, count) if stream is not None else []
        if lines:
            return [[key, lines]]
        if b"BLOCK" not in options:
            return None
        words = [w for w in words if w.upper() != b"BLOCK"]
        seconds = int(words.pop(words.index(b"STREAMS") - 1)) / 1000
        session.park(lambda: self.read_log(session, words), seconds, lambda: None)
        return session

    def wake(self) -> None:
        """Something was added to the log: whoever is parked looks again."""
        for session in sorted(self.parked, key=lambda s: s.number):
            session.look_again()
