"""What is sent to the master: the keys of the bookkeeping and the calls of the scripts.

Times are in milliseconds unless a name ends in `_us`; stamps are whole numbers below 2**53.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct

from evercache.errors import ConfigurationError, CorruptEnvelope
from evercache.protocol.scope import FUNCTION, KEY, TAG, Scope, Subject
from evercache.protocol.scripts import SCRIPTS, Script
from evercache.protocol.types import Argument, Command

__all__ = [
    "Ask",
    "Bookkeeping",
    "Commands",
    "Fill",
    "Invalidation",
    "Limits",
    "Put",
    "ScriptCall",
    "in_full",
    "mark_member",
]

_VERSION = "1"  # of the arguments
_EXACT = 2**53
_MAX_SPAN = 2**32
_MAX_TAGS = 255
_HEADER = 38
_MAGIC = b"\xe7\xca"


class Bookkeeping(Struct, frozen=True):
    """The names of the bookkeeping keys of a namespace, and the databases of entries and bookkeeping.

    Namespaces are plain (`[a-z0-9_.-]`), so that `~` keeps these apart from entries (`namespace:...`).
    """

    namespace: str
    data_db: int = 0
    book_db: int = 0

    @property
    def absent(self) -> str:
        """A key that never exists: scripts unlink it first."""
        return f"{self.namespace}~absent"

    @property
    def state(self) -> str:
        """The hash with `tip`, `*`, `tagfloor`, `gens`, `last`, `life`, `lifetime`, `data` and what is held."""
        return f"{self.namespace}~state"

    @property
    def marks(self) -> str:
        """The sorted set of the marks of functions (`f:name`) and tags (`t:hash`)."""
        return f"{self.namespace}~marks"

    @property
    def log(self) -> str:
        """The stream with one line for each invalidation."""
        return f"{self.namespace}~log"

    @property
    def ids(self) -> str:
        """The sorted set of the ids of recent invalidations."""
        return f"{self.namespace}~ids"

    @property
    def hot(self) -> str:
        """The sorted set of the calls that are made most, a sample (engine/hot.py)."""
        return f"{self.namespace}~hot"

    def lease_key(self, entry_key: str) -> str:
        """The key of the lease on an entry (in the database of the entries)."""
        return f"{self.namespace}~lease:{entry_key}"

    @property
    def keys(self) -> tuple[str, str, str, str, str]:
        """The keys that every script takes first."""
        return self.absent, self.state, self.marks, self.log, self.ids


class Limits(Struct, frozen=True):
    """How much bookkeeping a server keeps. `marks_ms`: at least the longest TTL plus computation; the longest
    of any process of the namespace counts.

    What is too much or too old is removed by one in `every` marks, so the server may keep that many more.
    """

    log_lines: int = 100_000
    journal_ms: int = 600_000
    marks_ms: int = (30 * 86_400 + 300) * 1000
    max_marks: int = 100_000
    max_holds: int = 10_000

    @property
    def every(self) -> int:
        """One in this many marks removes what is too much or too old: with small limits each one."""
        return max(1, min(64, self.log_lines // 1000, self.max_marks // 1000))


class Ask(Struct, frozen=True):
    """One entry that is asked for. `least`: the newest mark known to cover it; `token`: 16 hex digits that stay the
    same when the question is repeated; `seen`: the id of an entry that the caller does not want."""

    subject: Subject
    least: int
    token: str = ""
    seen: str = ""


class Fill(Struct, frozen=True):
    """One computed value, with the token and the stamp of the lease under which it was computed."""

    key: str
    token: str
    stamp: int
    soft_ms: int
    span_ms: int
    envelope: bytes


class Put(Struct, frozen=True):
    """One explicit write. `since` counts in that mode only."""

    subject: Subject
    id: str
    soft_ms: int
    span_ms: int
    envelope: bytes
    since: int = 0
    least: int = 0


class Invalidation(Struct, frozen=True):
    """One invalidation; `function` only serves to say whether a key's entry was alive."""

    scope: Scope
    id: str
    function: str = ""


class ScriptCall(Struct, frozen=True):
    """One call of a script. Sent by hash first; whole, with the same arguments, after `NOSCRIPT`."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]

    def evalsha(self) -> Command:
        """The call by the script's hash."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def eval(self) -> Command:
        """The call with the script's text."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


def in_full(calls: Iterable[ScriptCall]) -> list[Command]:
    """Calls once more after `NOSCRIPT`, in order: the first of each script with its text, which loads it for the
    others."""
    sent: set[str] = set()
    commands = []
    for call in calls:
        commands.append(call.evalsha() if call.script.sha in sent else call.eval())
        sent.add(call.script.sha)
    return commands


def mark_member(scope: Scope) -> str:
    """The member of the sorted set of marks that stands for a function or a tag."""
    if scope.kind not in (FUNCTION, TAG):
        raise ConfigurationError(f"{scope} has no member among the marks: only functions and tags have one")
    return f"{scope.kind}:{scope.name}"


def _tags(tags: tuple[bytes, ...]) -> tuple[Argument, ...]:
    if len(tags) > _MAX_TAGS:
        raise ConfigurationError(f"{len(tags)} tags on one entry; use at most {_MAX_TAGS}")
    return (len(tags), *(tag.hex() for tag in tags))


def _expiry(soft_ms: int, span_ms: int) -> tuple[int, int]:
    if not 0 <= span_ms < _MAX_SPAN or soft_ms + span_ms <= 0:
        raise ConfigurationError(
            f"an expiry of {soft_ms} ms and {span_ms} ms of grace can't be written; use a positive TTL, and "
            "less than 49 days of grace"
        )
    return soft_ms, span_ms


def _stamp(stamp: int) -> int:
    if not 0 <= stamp < _EXACT:
        raise ConfigurationError(f"{stamp} is no stamp; use one that came from this cache")
    return stamp


def _envelope(envelope: bytes) -> bytes:
    if len(envelope) < _HEADER or not envelope.startswith(_MAGIC):
        raise CorruptEnvelope("only envelopes can be stored; wrap the value first")
    return envelope


class Commands(Struct):
    """Builds the script calls of one namespace.

    `life` names the bookkeeping if a call creates it: never the same twice, so that who created it before sees that
    this is another one. `bookkeeping` is replaced, as a whole and without a lock, when a resync finds it in another
    database; nothing else changes.

    In every call, `replid` is the replication id that the caller expects ("" = any: the reply tells it) and
    `newest` the newest stamp that it knows (0 = none).
    """

    bookkeeping: Bookkeeping
    limits: Limits
    life: Callable[[], str]

    def _call(self, name: str, entries: Sequence[str], replid: str, newest: int, *args: Argument) -> ScriptCall:
        book = self.bookkeeping
        keys = (*book.keys, *entries, *map(book.lease_key, entries))
        return ScriptCall(
            SCRIPTS[name], keys, (_VERSION, replid, book.data_db, book.book_db, _stamp(newest), *args)
        )

    def _limits(self) -> tuple[Argument, ...]:
        limits = self.limits
        return limits.log_lines, limits.journal_ms, limits.marks_ms, limits.max_marks, limits.every

    def lease(
        self,
        subject: Subject,
        *,
        replid: str,
        newest: int,
        least: int,
        token: str,
        lease_ms: int,
        seen: str = "",
        expected_ms: int = 0,
        not_after_us: int = 0,
    ) -> ScriptCall:
        """Read at the master; where nothing live is there, or only the entry of id `seen`, take the lease.

        `least` is the newest mark known to cover the subject, `token` 16 hex digits that stay the same when
        the call is repeated, `expected_ms` the usual time of the computation (0 = unknown). After `not_after_us`
        of the server's clock (0 = no limit) no lease is taken any more.
        """
        ask = Ask(subject, least, token, seen)
        return self.lease_many(
            [ask],
            replid=replid,
            newest=newest,
            lease_ms=lease_ms,
            expected_ms=expected_ms,
            not_after_us=not_after_us,
        )

    def lease_many(
        self,
        asks: Sequence[Ask],
        *,
        replid: str,
        newest: int,
        lease_ms: int,
        expected_ms: int = 0,
        not_after_us: int = 0,
    ) -> ScriptCall:
        """The same for several entries of one function."""
        rest = ("1", lease_ms, expected_ms, not_after_us, self.limits.marks_ms, self.life())
        return self._read(asks, replid, newest, rest)

    def peek(self, subject: Subject, *, replid: str, newest: int, least: int) -> ScriptCall:
        """Read at the master and take no lease."""
        return self.peek_many([Ask(subject, least)], replid=replid, newest=newest)

    def peek_many(self, asks: Sequence[Ask], *, replid: str, newest: int) -> ScriptCall:
        """The same for several entries of one function."""
        return self._read(asks, replid, newest, ("0", 0, 0, 0, 0, ""))

    def _read(self, asks: Sequence[Ask], replid: str, newest: int, rest: tuple[Argument, ...]) -> ScriptCall:
        words: list[Argument] = []
        for ask in asks:
            words += (_stamp(ask.least), ask.token, ask.seen, *_tags(ask.subject.tags))
        keys = [ask.subject.key for ask in asks]
        return self._call("lease", keys, replid, newest, asks[0].subject.function, *rest, *words)

    def renew(self, key: str, *, replid: str, newest: int, token: str, lease_ms: int) -> ScriptCall:
        """Lengthen one's own lease to `lease_ms` from now."""
        return self._call("renew", [key], replid, newest, token, lease_ms)

    def release(self, key: str, *, replid: str, newest: int, token: str) -> ScriptCall:
        """Give one's own lease back without a value."""
        return self._call("release", [key], replid, newest, token)

    def store(
        self,
        key: str,
        *,
        replid: str,
        newest: int,
        token: str,
        stamp: int,
        soft_ms: int,
        span_ms: int,
        envelope: bytes,
    ) -> ScriptCall:
        """Store a computed value under the lease of this token and stamp.

        The script writes stamp and expiries into the envelope; the id in it must be the token.
        """
        fill = Fill(key, token, stamp, soft_ms, span_ms, envelope)
        return self.store_many([fill], replid=replid, newest=newest)

    def store_many(self, fills: Sequence[Fill], *, replid: str, newest: int) -> ScriptCall:
        """The same for several values."""
        words: list[Argument] = []
        for fill in fills:
            words += (fill.token, _stamp(fill.stamp), fill.soft_ms, fill.span_ms, _envelope(fill.envelope))
        return self._call("store", [fill.key for fill in fills], replid, newest, *words)

    def invalidate(self, scope: Scope, *, replid: str, newest: int, id: str, function: str = "") -> ScriptCall:
        """Invalidate a scope, once for each `id` (16 hex digits).

        `function` only serves to say whether a key's entry was alive.
        """
        return self.invalidate_many([Invalidation(scope, id, function)], replid=replid, newest=newest)

    def invalidate_many(self, items: Sequence[Invalidation], *, replid: str, newest: int) -> ScriptCall:
        """The same for several scopes."""
        words: list[Argument] = []
        for item in items:
            words += (item.scope.kind, item.scope.name, item.id, item.function)
        keys = [item.scope.name for item in items if item.scope.kind == KEY]
        return self._call("invalidate", keys, replid, newest, *self._limits(), self.life(), len(items), *words)

    def hold(
        self, scopes: Sequence[Scope], *, replid: str, newest: int, id: str, span_ms: int, not_after_us: int = 0
    ) -> ScriptCall:
        """Refuse fills of keys, functions and tags for `span_ms`, or until `id` lets go of them (a span of 0).

        After `not_after_us` of the server's clock (0 = no limit) nothing is held any more.
        """
        names = [f"{scope.kind}:{scope.name}" for scope in scopes]
        head = (id, span_ms, not_after_us, self.limits.max_holds, self.life(), len(names))
        return self._call("hold", (), replid, newest, *head, *names)

    def set(
        self,
        subject: Subject,
        *,
        replid: str,
        newest: int,
        id: str,
        not_after_us: int,
        not_before_us: int = 0,
        soft_ms: int,
        span_ms: int,
        envelope: bytes,
        mode: Literal["set", "add", "since"] = "set",
        since: int = 0,
        least: int = 0,
    ) -> ScriptCall:
        """Write a value explicitly, between `not_before_us` (when it was sent) and `not_after_us` of the server's
        clock, which may have been set back meanwhile.

        `add` refuses where a live entry is; `since` refuses where anything that covers the subject was
        invalidated, or the key written, after the stamp `since`.
        """
        put = Put(subject, id, soft_ms, span_ms, envelope, since, least)
        return self.set_many(
            [put], replid=replid, newest=newest, not_after_us=not_after_us, not_before_us=not_before_us, mode=mode
        )

    def set_many(
        self,
        puts: Sequence[Put],
        *,
        replid: str,
        newest: int,
        not_after_us: int,
        not_before_us: int = 0,
        mode: Literal["set", "add", "since"] = "set",
    ) -> ScriptCall:
        """The same for several values."""
        words: list[Argument] = [put.id for put in puts]
        tags: list[Argument] = []
        for put in puts:
            number, *more = _tags(put.subject.tags)
            tags += more
            words += (
                put.subject.function,
                _stamp(put.least),
                _stamp(put.since),
                *_expiry(put.soft_ms, put.span_ms),
            )
            words += (_envelope(put.envelope), number)
        head = (mode, not_before_us, not_after_us, *self._limits(), self.life())
        return self._call("set", [put.subject.key for put in puts], replid, newest, *head, *words, *tags)

    def touch(
        self,
        subject: Subject,
        *,
        replid: str,
        newest: int,
        least: int,
        not_after_us: int,
        not_before_us: int = 0,
        soft_ms: int,
        span_ms: int,
        renewed: bool | Literal["again"] = False,
    ) -> ScriptCall:
        """Change the expiry of a live entry, and whether reads renew it; "again": only of one that they renew."""
        head = (_stamp(least), subject.function, not_before_us, not_after_us)
        last = (
            *_expiry(soft_ms, span_ms),
            2 if renewed == "again" else int(renewed),
            self.limits.marks_ms,
            *_tags(subject.tags),
        )
        return self._call("touch", [subject.key], replid, newest, *head, *last)

    def incr(
        self,
        key: str,
        *,
        replid: str,
        newest: int,
        not_after_us: int,
        not_before_us: int = 0,
        id: str,
        delta: int,
        soft_ms: int,
        span_ms: int,
        initial: int = 0,
        least: int = 0,
    ) -> ScriptCall:
        """Add `delta` to a counter, or make one of `initial + delta` with this expiry and `id`."""
        if abs(delta) >= _EXACT or abs(initial) >= _EXACT:
            raise ConfigurationError("counters hold whole numbers below 2**53; use a smaller step")
        head = (_stamp(least), not_before_us, not_after_us, id, delta)
        last = (*_expiry(soft_ms, span_ms), initial, self.life(), self.limits.marks_ms)
        return self._call("incr", [key], replid, newest, *head, *last)

    def resync(self, *, replid: str = "", newest: int) -> ScriptCall:
        """Read the state, and raise the tip to `newest`."""
        return self._call("resync", (), replid, newest, self.life())

    def restore(
        self,
        marks: Iterable[tuple[str, int]],
        *,
        replid: str,
        newest: int,
        everything: int = 0,
        tagfloor: int = 0,
        knew_another: bool = False,
    ) -> ScriptCall:
        """Write marks of functions and tags back (`mark_member`, stamp); some thousands at a time.

        With `knew_another` life of the bookkeeping, all entries of that are outdated.
        """
        pairs = [(member, _stamp(stamp)) for member, stamp in marks]
        flat: list[Argument] = [word for pair in pairs for word in pair]
        head = (self.life(), _stamp(everything), _stamp(tagfloor), *self._limits(), int(knew_another), len(pairs))
        return self._call("restore", (), replid, newest, *head, *flat)

    def sweep(self, key: str, *, replid: str, newest: int, least: int) -> ScriptCall:
        """Remove the entry if it is older than `least` or past its hard expiry."""
        return self._call("sweep", [key], replid, newest, _stamp(least))

    def tip(self, *, replid: str, newest: int) -> ScriptCall:
        """Read the newest stamp issued."""
        return self._call("tip", (), replid, newest)

    def marks_page(self, after: int = 0, count: int = 1000) -> Command:
        """Marks from the stamp `after` on, for `parse_marks`. Runs in the bookkeeping database.

        The next page begins at the last stamp of this one (and shows it again); the last page is shorter.
        """
        return (
            "ZRANGEBYSCORE", self.bookkeeping.marks, after, "+inf", "WITHSCORES", "LIMIT", 0, count,
        )  # fmt: skip

    def tail(self, position: str, *, count: int, block_ms: int) -> Command:
        """Lines of the log after `position`, for `parse_log`. Runs in the bookkeeping database.

        It waits for the first line up to `block_ms`; 0: not at all.
        """
        block: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms else ()
        return ("XREAD", "COUNT", count, *block, "STREAMS", self.bookkeeping.log, position)
