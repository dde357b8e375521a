"""Invalidations that belong to a transaction of an SQLAlchemy session: `Cache.invalidate_on_commit`.

They wait in the session. Right before its COMMIT, all flushed, fills are refused and marks issued, as by
`changing`; after it once more. A rollback forgets them, one to a savepoint those that were named under it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from evercache.api.changes import AT_MOST, Changed, longest, scopes_of
from evercache.engine.flights import Owner
from evercache.engine.state import Hold
from evercache.errors import PackageMissing
from evercache.policy import Seconds
from evercache.protocol.scope import Scope

try:
    from sqlalchemy import event, util
    from sqlalchemy.exc import MissingGreenlet
    from sqlalchemy.orm import Session, SessionTransaction, scoped_session
except ImportError as error:
    raise PackageMissing(
        "invalidate_on_commit needs SQLAlchemy 2, which is not installed: pip install 'evercache[sqlalchemy]'"
    ) from error

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

    from evercache.cache import Cache

    AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]

__all__ = ["AnySession", "invalidate_on_commit"]

#: Waits for a coroutine from inside a session that tasks use (named differently from SQLAlchemy 2.1 on).
_wait: Callable[[Coroutine[Any, Any, Any]], Any] = getattr(util, "await_", None) or util.await_only

#: Where in `Session.info` it is kept what waits, by cache.
_INFO: Final = "evercache.waiting"


def invalidate_on_commit(
    cache: Cache,
    session: AnySession,
    *what: Changed,
    tag: str | Iterable[str] = (),
    at_most: Seconds = AT_MOST,
) -> None:
    """See `Cache.invalidate_on_commit`."""
    scopes, seconds = scopes_of(cache, what, tag), longest(at_most)
    found: Any = session
    if isinstance(session, (scoped_session, *_for_tasks("async_scoped_session"))):
        found = found()
    plain: Any = found
    if isinstance(found, _for_tasks("AsyncSession")):
        plain = plain.sync_session
    if not isinstance(plain, Session):
        raise TypeError(f"{session!r} is no session of SQLAlchemy: give a Session, an AsyncSession or a scoped one")
    of_session: dict[Cache, _Waiting] = plain.info.setdefault(_INFO, {})
    waiting = of_session.get(cache)
    if waiting is None:
        waiting = of_session[cache] = _Waiting(cache, plain)
    waiting.add(plain, scopes, seconds, for_tasks=plain is not found)


@functools.cache
def _for_tasks(name: str) -> tuple[type, ...]:
    """A class of SQLAlchemy's sessions for tasks; empty if they cannot be imported: 2.1 needs greenlet for them."""
    try:
        from sqlalchemy.ext import asyncio
    except ImportError:
        return ()
    return (getattr(asyncio, name),)


def _of(session: Session) -> SessionTransaction | None:
    """The transaction that is under way, that of a savepoint included."""
    return session.get_nested_transaction() or session.get_transaction()


class _Waiting:
    """What waits in one session for its commit, for one cache. Used by who uses the session, one at a time."""

    def __init__(self, cache: Cache, session: Session) -> None:
        self._cache = cache
        self._for_tasks = False
        self._seconds = 0.0
        #: The transaction in which each was named; None: before one began.
        self._scopes: list[tuple[SessionTransaction | None, Scope]] = []
        self._hold: Hold | None = None
        #: Keeps the hold open; without it the background ends the change.
        self._owner = Owner()
        for name in ("before_commit", "after_commit", "after_transaction_end"):
            event.listen(session, name, getattr(self, f"_{name}"))

    def __repr__(self) -> str:
        return f"<_Waiting {[str(scope) for _, scope in self._scopes]}>"

    def add(self, session: Session, scopes: list[Scope], seconds: float, *, for_tasks: bool) -> None:
        """Some more."""
        now = _of(session)
        self._scopes += [(now, scope) for scope in scopes]
        self._seconds, self._for_tasks = max(self._seconds, seconds), for_tasks

    def _before_commit(self, session: Session) -> None:
        if session.get_nested_transaction() is not None:
            return  # of a savepoint: nobody else sees anything of it yet
        if self._scopes:
            session.flush()  # what fails or takes long in it does so before anything is refused
        if self._scopes:
            scopes = list(dict.fromkeys(scope for _, scope in self._scopes))
            counters = self._cache._counters
            owner = self._owner = Owner()
            begun = self._run(
                lambda client: client.changes.begin(scopes, self._seconds, counters, "absorb", owner),
            )
            self._hold = begun[0] if begun is not None else None

    def _after_commit(self, session: Session) -> None:
        nested = session.get_nested_transaction()
        if nested is None:
            self._end()
        else:  # what was named under a savepoint now belongs to what is around it
            outer = nested.parent
            while outer is not None and not outer.nested and outer.parent is not None:
                outer = outer.parent
            self._scopes = [(outer if owner is nested else owner, scope) for owner, scope in self._scopes]

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self._scopes = [(owner, scope) for owner, scope in self._scopes if owner is not transaction]
        elif transaction.parent is None:
            if self._hold is not None:
                self._end()  # the COMMIT failed, or nobody knows: its marks do no harm
            self._scopes, self._seconds = [], 0.0

    def _end(self) -> None:
        hold, self._hold = self._hold, None
        scopes = list(dict.fromkeys(scope for _, scope in self._scopes))
        self._scopes, self._seconds = [], 0.0
        counters = self._cache._counters
        try:
            if hold is not None:
                self._run(lambda client: client.changes.end(hold, counters, "absorb"))
            elif scopes:
                self._run(lambda client: client.operations.invalidate(scopes, counters, on_error="absorb"))
        finally:
            self._owner.over = True

    def _run(self, work: Callable[[Any], Any]) -> Any:
        """Do something with the client that does not hold up the event loop, where the session is one for tasks."""
        if self._for_tasks and (tasks := self._cache._client_async()) is not None:
            waiting = work(tasks)
            try:
                return _wait(waiting)
            except MissingGreenlet:  # the plain session inside was used by itself
                waiting.close()
        client = self._cache._client_sync()
        return None if client is None else work(client)
