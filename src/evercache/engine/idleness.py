"""When a process is idle: nobody calls the cache, and nothing is under way. Then its background asks seldom.

The first call ends it. What was heard until then does not count as current (`State.awake_since`), so this call asks
the master, by script; the tail reads the log at once, and later calls take the fast path again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evercache.engine.engine import Engine

__all__ = ["LAG_POLL", "SELDOM", "Idleness"]

#: A process is idle after this time without calls, as a multiple of `max_staleness`. Where calls read is found
#: anew once in `max_staleness` at least, so a process that calls all the time is noticed.
_AFTER = 2.0
#: What is kept near is served without that. So the next call after this time is sent the slow path.
_PROBE_AFTER = 1.0
#: How often an idle process reads the log, as a multiple of `max_staleness`. Two hundred of them that did so within
#: `max_staleness` would take 2 % of the primary's core. What it has read does not count anyway.
_POLL = 2.5
#: How often an idle process asks the replicas how far they are, as a share of `lag_bound`: they stay admitted.
LAG_POLL = 0.5
#: The longest pause of a chore while the process is idle (seconds).
SELDOM = 2.0


class Idleness:
    """Owned by the engine. `wake` and `used` may be used by any thread, the rest on the background's loop only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Whether a call came since the last look.
        self.used = True
        #: Whether something was under way then.
        self.busy = True
        self._last = engine.state.now()
        self._probing = False
        self._awake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Idleness of {self._engine!r} {'idle' if self._engine.state.idle else 'in use'}>"

    def attach(self) -> None:
        """Begin on another loop, in use."""
        self._awake = asyncio.Event()
        self._awake.set()
        self._engine.state.wake()
        self.wake()

    @property
    def poll(self) -> float:
        """Seconds from one read of the log to the next while idle; less at random, so that processes differ."""
        state = self._engine.state
        return self._engine.settings.max_staleness * _POLL * (0.9 + 0.1 * state.rng.random())

    def wake(self) -> None:
        """A call came, or something is wrong: ask as often as usual from now on."""
        self.used = True
        if self._probing:
            self._probing = False
            self._engine.divert(self._engine.hot.armed)
        if self._engine.state.idle:
            self._engine.state.wake()
            self._engine.post(self._woken)

    def _woken(self) -> None:
        self._awake.set()
        self._engine.deployment.look_for_idle()

    def look(self, now: float) -> None:
        """Whether it is idle now; called again and again."""
        state = self._engine.state
        self.busy = self._busy()
        if self.busy:
            self.wake()
        if self.used:
            self.used, self._last = False, now
            return
        unused = (now - self._last) / self._engine.settings.max_staleness
        if not self._probing and unused >= _PROBE_AFTER:
            self._probing = True
            self._engine.divert(True)
        elif not state.idle and unused >= _AFTER:
            self._awake.clear()
            state.rest()
            if self._called():  # before it could see that
                self.wake()
            else:
                self._engine.deployment.look_for_idle()

    def _called(self) -> bool:
        return self.used

    def _busy(self) -> bool:
        """Whether something is under way, or is wrong. Under "strict" the master must be confirmed all the time."""
        engine, state = self._engine, self._engine.state
        return bool(
            state.local
            or not state.ready
            or state.master_down
            or engine.settings.consistency == "strict"
            or state.journal.pending
            or state.leases
            or state.holds
            or state.refreshing
            or state.reading
            or len(state.flights)
            or engine.former.listening
            or engine.chores.busy
        )

    async def pause(self, seconds: float, idle: float) -> None:
        """Sleep for `seconds`; where the process is idle, up to `idle` seconds, or until it is no longer."""
        if not self._engine.state.idle:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(idle):
                await self._awake.wait()
