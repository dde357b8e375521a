"""What the client needs to know of one cached call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from evercache.codecs import STRICT, Encoder
from evercache.observe import Counters
from evercache.policy import Policy
from evercache.protocol.balance import LATEST
from evercache.protocol.lease import LARGEST_DRAW, LEASE, lease_after_starvation
from evercache.protocol.scope import Subject

__all__ = ["SHARE", "Batch", "Plan", "Request", "Usual"]

#: Share of what is left of the budget that one node gets before another is asked.
SHARE = 0.4


class Usual:
    """How long a function usually computes, and how long its leases must be; a lost update does no harm."""

    __slots__ = ("lease", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.lease = LEASE

    def __repr__(self) -> str:
        return f"<Usual seconds={self.seconds:.3f} lease={self.lease:.1f}>"

    def took(self, compute: float) -> None:
        """One more computation, in seconds (an exponentially weighted mean)."""
        self.seconds = compute if not self.seconds else 0.7 * self.seconds + 0.3 * compute

    def starved(self, compute: float, limit: float) -> None:
        """A lease ran out unrenewed: the function holds the interpreter (rule 13)."""
        self.lease = min(lease_after_starvation(compute), limit)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the hot path needs to know of a function. `patience`: seconds that one node gets to answer."""

    function: str
    encoder: Encoder
    counters: Counters
    beta: float
    patience: float
    near: float
    #: What has less left (in units of 2^-16 ms) than this times its computing time (of 2^-8 times 0.1 ms) may be
    #: refreshed early: both as the header has them.
    early: float = field(init=False, repr=False, compare=False)
    #: A second node is asked after so many seconds at the latest.
    latest: float = field(init=False, repr=False, compare=False)
    #: The number of the codec whose plain payloads are read by `decode_plain`; none has -1.
    plain: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "early", self.beta * LARGEST_DRAW / 10 * 256)
        object.__setattr__(self, "latest", LATEST * self.patience)
        object.__setattr__(self, "plain", STRICT if self.encoder.ordinary else -1)


class Request(Struct, frozen=True):
    """One call: what it is about, how it is cached, and how to compute it.

    `result_tags` gives the hashes of the tags that the result carries. `background` wraps a refresh that runs
    after the page was answered.
    """

    subject: Subject
    policy: Policy
    encoder: Encoder
    counters: Counters
    usual: Usual
    compute: Callable[[], Any]
    result_tags: Callable[[Any], tuple[bytes, ...]] | None = None
    #: For the first look of the hot path; None: there is none.
    plan: Plan | None = None


class Batch(Struct, frozen=True):
    """One call that asks for many values: `requests[i]` is about `ids[i]`; they differ in the subject only.

    `compute` takes a list of ids and returns a mapping from id to value, which may leave some out.
    """

    ids: tuple[Any, ...]
    requests: tuple[Request, ...]
    compute: Callable[[list[Any]], Any]
    #: The arguments of a call with one id in the place of the ids.
    one: Callable[[Any], tuple[tuple[Any, ...], Mapping[str, Any]]] | None = None
