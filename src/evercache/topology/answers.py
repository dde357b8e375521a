"""What to ask a sentinel, and how to read what it says: pure functions over replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from evercache.errors import ProtocolError, ServerError, ServiceUnknown
from evercache.protocol.shapes import to_address, to_epoch, whole
from evercache.protocol.topology import ReplicaSeen, SentinelAnswer, SentinelSeen
from evercache.protocol.types import Address, Command, Reply

__all__ = [
    "BRIEF",
    "CHANNELS",
    "VOTES",
    "concerns",
    "parse_answer",
    "parse_role",
    "parse_vote",
    "question",
    "repeated",
]

#: Where a sentinel publishes for whom it votes. It does not say for which service.
VOTES = "+vote-for-leader"
#: So many commands of a question ask whether anything has changed.
BRIEF = 2
#: The events after which the answers of sentinels may differ from before (patterns).
CHANNELS = (
    "+switch-master",
    "+promoted-slave",
    "+slave",
    "+slave-reconf-*",
    "+convert-to-slave",
    "+config-update-from",
    "+failover-*",
    "+elected-leader",
    "+try-failover",
    "?sdown",
    "?odown",
    "?role-change",
    "+reboot",
    "?monitor",
    "+reset-master",
    "+sentinel",
    VOTES,
)


def question(service: str) -> list[Command]:
    """One pipeline, which only reads.

    IS-MASTER-DOWN-BY-ADDR would show the vote of the sentinel. But whoever may send it may also force the highest
    epoch upon all sentinels, after which none is ever elected again.
    """
    return [
        ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
        ("SENTINEL", "MASTER", service),
        ("SENTINEL", "REPLICAS", service),
        ("SENTINEL", "SENTINELS", service),
        ("SENTINEL", "MYID"),
    ]


def parse_answer(
    service: str,
    sentinel: Address,
    sent: float,
    replies: Sequence[Reply | ServerError],
    mapped: Callable[[Address], Address],
) -> SentinelAnswer:
    """The answer with reachable addresses.

    Raises nothing: an error reply, or a shape that is not understood, is the `error` of the answer.
    """
    try:
        where: Any
        replicas: Any
        where, facts, replicas, others, ident = replies[:5]
        for reply in (where, facts, replicas):
            if isinstance(reply, ServerError):
                unknown = "no such master" in str(reply).lower()
                error = _unknown(service, sentinel) if unknown else reply
                return SentinelAnswer(sentinel, sent, error=error)
        if where is None:
            return SentinelAnswer(sentinel, sent, error=_unknown(service, sentinel))
        fields = _fields(facts)
        announced = to_address(_text(where[0]), _text(where[1]))
        if announced is None or _place(fields) is None:
            raise ValueError("a master without an address")
        seen = [_fields(r) for r in replicas]
        named = [] if isinstance(others, ServerError) else [_fields(o) for o in others]
        return SentinelAnswer(
            sentinel,
            sent,
            master=mapped(announced),
            epoch=to_epoch(fields["config-epoch"]),
            flags=frozenset(fields["flags"].split(",")),
            known_sentinels=whole(fields.get("num-other-sentinels", "0")) + 1,
            others=tuple(_sentinel_seen(mapped(a), o) for o in named if (a := _place(o)) is not None),
            replicas=tuple(
                ReplicaSeen(mapped(a), frozenset(r["flags"].split(",")), whole(r.get("slave-priority", "100")))
                for r in seen
                if (a := _place(r)) is not None
            ),
            ident="" if isinstance(ident, ServerError) else _text(ident),
            failover_timeout=whole(fields.get("failover-timeout", "180000")) / 1000,
            down_after=whole(fields.get("down-after-milliseconds", "0")) / 1000,
        )
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        odd = ProtocolError(f"{sentinel} does not answer like a sentinel ({error!r}); is the port right?")
        return SentinelAnswer(sentinel, sent, error=odd)


def repeated(
    service: str,
    last: SentinelAnswer,
    sent: float,
    replies: Sequence[Reply | ServerError],
    mapped: Callable[[Address], Address],
) -> SentinelAnswer | None:
    """The last answer of a sentinel, given again to the beginning of a question; None: something has changed.

    What it says of the other sentinels and of the replicas is as old as the last answer. It publishes what becomes
    of those, and of how long another one has been silent it says too little at worst.
    """
    brief = parse_answer(service, last.sentinel, sent, (*replies, [], [], last.ident.encode()), mapped)
    again = replace(last, sent=sent)
    same = replace(brief, others=last.others, replicas=last.replicas, followed_since=last.followed_since)
    return again if same == again else None


def _sentinel_seen(address: Address, entry: dict[str, str]) -> SentinelSeen:
    return SentinelSeen(
        address,
        entry.get("runid", ""),
        silent_for=whole(entry.get("last-hello-message", "0")) / 1000,
        voted_for=entry.get("voted-leader", ""),
        vote_epoch=whole(entry.get("voted-leader-epoch", "0")),
    )


def _place(entry: dict[str, str]) -> Address | None:
    """Of a replica or a sentinel; one that a sentinel has lost the address of is passed over."""
    return to_address(entry["ip"], entry["port"])


def _unknown(service: str, sentinel: Address) -> ServiceUnknown:
    return ServiceUnknown(f"{sentinel} does not monitor {service!r}; check the service name in the URL")


def parse_role(reply: Any) -> str:
    """ "master", "slave", ... from the reply to ROLE; empty for an error."""
    if isinstance(reply, list) and reply:
        return _text(reply[0])
    return ""


def concerns(message: Sequence[Any], service: str) -> bool:
    """Whether a pub/sub message (`[b"pmessage", pattern, channel, data]`) speaks of this service."""
    return service in _text(message[-1]).split() if len(message) == 4 else False


def parse_vote(message: Sequence[Any]) -> tuple[str, int] | None:
    """The id of the sentinel that is voted for, and the epoch, from a pub/sub message; None: it is no vote."""
    if len(message) != 4 or _text(message[2]) != VOTES:
        return None
    words = _text(message[3]).split()
    numbered = len(words) == 2 and words[1].isdecimal() and len(words[1]) <= 20
    return (words[0], int(words[1])) if numbered else None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fields(reply: Any) -> dict[str, str]:
    """A map (RESP3) or a flat list of names and values (RESP2)."""
    if isinstance(reply, dict):
        return {_text(k): _text(v) for k, v in reply.items()}
    return {_text(k): _text(v) for k, v in zip(reply[::2], reply[1::2], strict=True)}
