"""How the servers of a cache are set up, for `flask cache doctor`: what `health()` does not look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from evercache.errors import UnavailableError
from evercache.integrations.flask.findings import Finding
from evercache.ops.survey import ask
from evercache.url import Location
from evercache.wire.types import Address

__all__ = ["of_master", "of_sentinels", "survey"]

#: Seconds for each server.
_PATIENCE = 2.0
_LATE_MS = 10_000


def survey(location: Location, master: Address | None) -> Iterator[Finding]:
    """Ask the sentinels and the master; nothing is changed, and nothing raised."""
    if location.kind == "sentinel":
        answers: dict[Address, dict[str, str]] = {}
        for address in location.sentinels:
            try:
                (raw,) = ask(
                    address,
                    location.sentinel_options,
                    ("SENTINEL", "MASTER", location.service or ""),
                    timeout=_PATIENCE,
                )
            except UnavailableError as error:
                if "No such master" not in str(error):  # which health() has told
                    yield Finding("risk", f"sentinel {address}: {error}", "start it, or correct it in the URL")
                continue
            answers[address] = _pairs(raw)
        yield from of_sentinels(answers.values())
    if master is not None and location.kind != "memory":
        try:
            (info,) = ask(master, location.node_options, ("INFO", "everything"), timeout=_PATIENCE)
        except UnavailableError:
            return  # told by health()
        lines = _text(info).splitlines()
        yield from of_master(master, dict(line.split(":", 1) for line in lines if ":" in line))


def of_sentinels(answers: Iterable[dict[str, str]]) -> Iterator[Finding]:
    """What the answers to SENTINEL MASTER tell."""
    answers = list(answers)
    if not answers:
        return
    facts = answers[0]
    count, quorum = int(facts.get("num-other-sentinels", "0")) + 1, int(facts.get("quorum", "0"))
    if quorum > count or count < 2:
        yield Finding(
            "risk",
            f"{count} sentinel(s) with quorum {quorum}: no failover can ever be agreed",
            "run three sentinels on three machines, with quorum 2",
        )
    elif count < 3:
        yield Finding(
            "risk",
            f"{count} sentinels: without one of them no failover can be agreed",
            "run three on three machines",
        )
    if int(facts.get("down-after-milliseconds", "0")) > _LATE_MS:
        yield Finding(
            "risk",
            f"a dead master is missed after {int(facts['down-after-milliseconds']) / 1000:g} s only",
            f"SENTINEL SET {facts.get('name', 'NAME')} down-after-milliseconds 5000, on each sentinel",
        )
    if not int(facts.get("num-slaves", "0")):
        yield Finding("risk", "the master has no replica, so nothing can take its place", "add one, better two")
    if len({(one.get("ip"), one.get("port")) for one in answers}) > 1:
        yield Finding(
            "risk",
            "the sentinels name different masters",
            "wait for the failover to end; if it stays, they were set up apart: SENTINEL REMOVE and MONITOR anew",
        )


def of_master(address: Address, facts: dict[str, str]) -> Iterator[Finding]:
    """What INFO of the master tells."""
    if facts.get("aof_enabled") == "0":
        yield Finding(
            "note",
            f"{address} writes no append-only file: a restart loses what was cached since the last snapshot",
            "CONFIG SET appendonly yes, and in the server's configuration file",
        )
    if facts.get("rdb_last_bgsave_status", "ok") != "ok" or facts.get("aof_last_write_status", "ok") != "ok":
        yield Finding(
            "risk",
            f"{address} could not write to its disk: it may refuse writes, and a restart loses what is cached",
            "give the disk room, or mend its rights; the server's log says which",
        )


def _pairs(answer: Any) -> dict[str, str]:
    pairs = answer.items() if isinstance(answer, dict) else zip(answer[::2], answer[1::2], strict=False)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
