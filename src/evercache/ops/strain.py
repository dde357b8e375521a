"""What happens at a data node right now: two looks at its counters, and what speaks from their difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evercache.ops.replies import number

__all__ = ["COUNTERS", "Strain", "strains"]

#: The fields of INFO that are looked at.
COUNTERS = (
    "evicted_keys",
    "keyspace_hits",
    "keyspace_misses",
    "rejected_connections",
    "errorstat_OOM",
    "used_memory",
    "used_memory_overhead",
    "maxmemory",
)
#: So many reads tell how many of them hit.
_LEAST_READS = 20
#: A node that evicts, and finds less than this share of what is asked, computes rather than caches.
_FEW_HITS = 0.5
#: The share of the memory that must be left for entries.
_LEAST_ROOM = 0.2


@dataclass(frozen=True, slots=True)
class Strain:
    """One thing that a node suffers from, and what ends it: a setting of that node, or words."""

    seen: str
    mend: str
    #: Whether it does not work; else it works, for now.
    critical: bool
    #: Whether `mend` is a setting and its value.
    setting: bool = True


def strains(before: Mapping[str, str], after: Mapping[str, str], seconds: float) -> Iterator[Strain]:
    """What the fields of `INFO` say, asked twice so many seconds apart."""
    bound, overhead = _number(after, "maxmemory"), _number(after, "used_memory_overhead")
    more = f"maxmemory {_megabytes(max(4 * bound, 2 * overhead))}mb"
    tight = bool(bound) and bound - overhead < _LEAST_ROOM * bound
    if tight:
        yield Strain(
            f"maxmemory {_size(bound)} leaves {_size(max(0.0, bound - overhead))} for entries; the server itself "
            f"uses {_size(overhead)}",
            more,
            critical=True,
        )
    refused = _number(after, "errorstat_OOM") - _number(before, "errorstat_OOM")
    if refused > 0:
        yield Strain(
            f"it refused {refused / seconds:.0f} commands a second for lack of memory (OOM)", more, critical=True
        )
    evicted = _number(after, "evicted_keys") - _number(before, "evicted_keys")
    hits = _number(after, "keyspace_hits") - _number(before, "keyspace_hits")
    reads = hits + _number(after, "keyspace_misses") - _number(before, "keyspace_misses")
    if evicted > 0 and not tight:
        found = f", and finds {hits / reads:.0%} of what is asked" if reads >= _LEAST_READS else ""
        few = reads >= _LEAST_READS and hits < _FEW_HITS * reads
        yield Strain(f"it evicts {evicted / seconds:.0f} keys a second{found}", more, critical=few)
    rejected = _number(after, "rejected_connections") - _number(before, "rejected_connections")
    if rejected > 0:
        yield Strain(
            f"it rejects {rejected / seconds:.0f} connections a second: maxclients is reached",
            "fewer processes or connections, or a higher maxclients and descriptor limit",
            critical=True,
            setting=False,
        )


def _number(fields: Mapping[str, str], name: str) -> float:
    return number(fields, name) or 0.0


def _megabytes(count: float) -> int:
    return max(16, int(count) >> 20)


def _size(count: float) -> str:
    return f"{count / (1 << 20):.1f} MB" if count < 1 << 30 else f"{count / (1 << 30):.1f} GB"
