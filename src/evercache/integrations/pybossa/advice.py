"""What settings will do, what is risky in them, and what to change. Pure; no text holds a secret."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evercache.errors import ConfigurationError
from evercache.integrations.pybossa.decorators import DISABLED
from evercache.integrations.pybossa.settings import DEFAULTS, EXTRA, SiteSettings

__all__ = ["Finding", "advise", "describe"]

Level = Literal["error", "risk", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: it will not work. `risk`: it works, until something happens. `note`: what differs from before."""

    level: Level
    text: str


def describe(settings: SiteSettings) -> list[str]:
    """What will be done, in sentences."""
    where = "one server is master and replica" if settings.location.kind == "standalone" else "reads are spread"
    if settings.location.kind == "memory":
        where = "inside the process, for tests only: sentinel.master has no server"
    pickled = (
        "signed with SECRET_KEY or EVERCACHE_SECRET_KEYS" if settings.secret else "not cached (no key to sign with)"
    )
    lines = [
        f"servers: {settings.location.redacted()} ({where})",
        f"entries: {settings.prefix}::<key> and {settings.prefix}:<function>_args::<digest>, and nothing else, "
        f"in database {settings.location.node_options.db}",
        f"marks of deletes: in database {settings.bookkeeping_db}",
        f"time: {settings.budget * 1000:.0f} ms of a cached call at most; {settings.socket_timeout:g} s for an "
        "answer to sentinel.master and sentinel.slave, and for a failover "
        + ("as long as the sentinels need for it" if settings.wait is None else f"{settings.wait:g} s"),
        f"values: plain ones as they are; what only pickle can hold is {pickled}",
    ]
    if settings.old_prefix is not None:
        lines.append(
            f"moving: pickles of the old code under {settings.old_prefix} are read and deleted with ours; no "
            f"entry lives longer than {settings.migration_ttl:g} s"
        )
    return lines


def advise(values: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[SiteSettings | None, list[Finding]]:
    """The settings, if they can be used, and what there is to say of them."""
    try:
        settings = SiteSettings.read(values)
    except ConfigurationError as error:
        return None, [Finding("error", str(error))]
    return settings, [*_of_values(values, settings), *_of_moving(settings), *_of_names(values, environment)]


def _of_values(values: Mapping[str, Any], settings: SiteSettings) -> Iterator[Finding]:
    location = settings.location
    if location.kind == "memory":
        yield Finding("risk", "memory:// keeps everything inside one process: give servers")
        return
    if location.kind == "sentinel" and len(location.sentinels) < 3:
        yield Finding(
            "risk", f"REDIS_SENTINEL names {len(location.sentinels)} of the sentinels: run three, on three "
            "machines, and name all of them",
        )  # fmt: skip
    if location.kind == "standalone":
        yield Finding("risk", "one server: while it is away every call computes; use REDIS_SENTINEL for a failover")
    if location.node_options.credentials.password is None:
        yield Finding("risk", "no password: anybody who reaches the servers can read and write; set REDIS_PASSWORD")
    if not settings.secret:
        yield Finding(
            "risk", "SECRET_KEY is missing or shorter than 16 bytes: objects of own classes are not cached; set "
            "it, or EVERCACHE_SECRET_KEYS, to secrets.token_hex(32)",
        )  # fmt: skip
    if values.get("REDIS_SOCKET_TIMEOUT") is None:
        yield Finding(
            "note", f"REDIS_SOCKET_TIMEOUT is None, which was for ever: {settings.socket_timeout:g} s is taken; "
            f"write REDIS_SOCKET_TIMEOUT = {settings.socket_timeout:g}",
        )  # fmt: skip
    elif settings.socket_timeout > 30:
        yield Finding("risk", "REDIS_SOCKET_TIMEOUT is long: a page waits so long for a frozen server; write 5")
    if settings.retry:
        yield Finding(
            "note", "REDIS_RETRY_ON_TIMEOUT is set, as by default: a command of sentinel.master that a failover "
            "cut off is sent again, and may run twice (a job is queued twice); False makes it fail instead",
        )  # fmt: skip
    if settings.bookkeeping_db == location.node_options.db:
        yield Finding(
            "risk", "the marks of deletes are in the database of the site, where keys() shows them: give "
            "EVERCACHE_BOOKKEEPING_DB another number",
        )  # fmt: skip


def _of_moving(settings: SiteSettings) -> Iterator[Finding]:
    if settings.old_prefix is None:
        return
    yield Finding(
        "risk", "EVERCACHE_OLD_KEYPREFIX: unsigned pickles are read, so anybody who can write to the servers "
        "can run code here; remove it when the old code runs nowhere and its entries have expired",
    )  # fmt: skip
    if settings.old_prefix == settings.prefix:
        yield Finding(
            "risk", "EVERCACHE_OLD_KEYPREFIX is REDIS_KEYPREFIX: the old code fails on what is written under "
            "its cache() keys; stop it first, or give REDIS_KEYPREFIX another value",
        )  # fmt: skip


def _of_names(values: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[Finding]:
    if DISABLED in environment:
        yield Finding("risk", f"{DISABLED} is in the environment: nothing is cached; unset it")
    known = [*DEFAULTS, *EXTRA]
    for name in values:
        close = difflib.get_close_matches(name, known, 1, 0.85)
        if close and name not in known:
            yield Finding("risk", f"{name} is not read: did you mean {close[0]}?")
    if values.get("REDIS_SENTINEL") and ("REDIS_HOST" in values or "REDIS_PORT" in values):
        yield Finding("note", "REDIS_HOST and REDIS_PORT are not used, since there is REDIS_SENTINEL")
    if values.get("EVERCACHE_URL") and any(name in values for name in DEFAULTS if name != "REDIS_KEYPREFIX"):
        yield Finding(
            "note", "addresses, passwords and database of REDIS_... are not used, since there is EVERCACHE_URL"
        )
