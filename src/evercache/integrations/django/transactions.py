"""Invalidations that belong to a transaction of Django.

They wait among the functions of `transaction.on_commit`, and so are forgotten with the savepoint, or the
transaction, under which they were named. Right before the COMMIT fills are refused and marks issued, as by
`changing`; after it once more. Nothing is refused for longer than the COMMIT takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import connections, transaction
from django.db.utils import DEFAULT_DB_ALIAS

from evercache.api.changes import AT_MOST, Changed
from evercache.cache import Cache
from evercache.integrations.django.aliases import cache_of
from evercache.policy import Seconds

__all__ = ["invalidate_on_commit"]


def invalidate_on_commit(
    *what: Changed,
    tag: str | Iterable[str] = (),
    using: str | None = None,
    cache: Cache | None = None,
    at_most: Seconds = AT_MOST,
) -> None:
    """Have keys (`f.key(7)`), cached functions and tags invalidated when the transaction under way commits.

    After a rollback, also of the savepoint around it, nothing is. Without a transaction they are invalidated at
    once. `using`: the alias of the database; `cache`: that of the alias "default", unless given. `at_most`: seconds
    for which fills are refused if this process is killed in the COMMIT.
    """
    named = _Named(cache or cache_of(), what, (tag,) if isinstance(tag, str) else tuple(tag), at_most)
    named.block()  # a mistake is told here, not at the commit
    connection = connections[using or DEFAULT_DB_ALIAS]
    if connection.in_atomic_block and not hasattr(connection, "_evercache_commit"):
        _hook(connection)
    transaction.on_commit(named, using)


class _Named:
    """What one call of `invalidate_on_commit` named. Django calls it after the commit."""

    def __init__(self, cache: Cache, what: tuple[Changed, ...], tags: tuple[str, ...], at_most: Seconds) -> None:
        self.cache, self.what, self.tags, self.at_most = cache, what, tags, at_most
        #: Its marks have been issued.
        self.done = False

    def __repr__(self) -> str:
        return f"<invalidation of {[*map(str, self.what), *self.tags]} on commit>"

    def __call__(self) -> None:
        if not self.done:  # there is no transaction, or a test runs the functions without a commit
            with self.block():
                self.done = True

    def block(self) -> Any:
        """The change."""
        return self.cache.changing(*self.what, tag=self.tags, at_most=self.at_most, on_error="absorb")


def _hook(connection: Any) -> None:
    """From now on the commits of a connection, which belongs to a thread, look at what waits for them."""
    connection._evercache_commit = connection.commit

    def with_marks() -> None:
        waiting = [each[1] for each in connection.run_on_commit if isinstance(each[1], _Named)]
        blocks = []
        try:
            for cache in dict.fromkeys(named.cache for named in waiting):
                mine = [named for named in waiting if named.cache is cache]
                what = dict.fromkeys(each for named in mine for each in named.what)
                tags = dict.fromkeys(tag for named in mine for tag in named.tags)
                longest = max((named.at_most for named in mine), key=_in_seconds)
                block = cache.changing(*what, tag=tuple(tags), at_most=longest, on_error="absorb")
                block.__enter__()
                blocks.append(block)
            connection._evercache_commit()
            for named in waiting:
                named.done = True
        finally:
            # Whether or not the COMMIT failed: marks do no harm.
            for block in blocks:
                block.__exit__(None, None, None)

    connection.commit = with_marks


def _in_seconds(at_most: Seconds) -> float:
    return at_most if isinstance(at_most, (int, float)) else at_most.total_seconds()
