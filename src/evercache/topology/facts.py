"""What a data node says of itself: `INFO replication` and its time, asked and parsed."""

from __future__ import annotations

import re

from msgspec import Struct

from evercache.errors import Loading, ProtocolError, ServerError, UnavailableError
from evercache.net.greeting import parse_time
from evercache.net.types import AsyncEndpoint, Greeting
from evercache.protocol.shapes import to_address, to_fields, whole
from evercache.protocol.types import Address
from evercache.topology.base import Clock

__all__ = ["NodeFacts", "Replication", "ask", "parse_replication"]

_LISTED = re.compile(r"^slave\d+$")


class Replication(Struct, frozen=True):
    """The parts of `INFO replication` that matter. `role` is "master" or "slave", as ROLE says it."""

    role: str
    replid: str
    #: The replication id before the last promotion; empty without one.
    replid2: str = ""
    #: What a master has written, or a replica has applied (bytes).
    offset: int = 0
    link_up: bool = False
    syncing: bool = False
    priority: int = 100
    #: The replicas that a server lists as online, as announced.
    replicas: tuple[Address, ...] = ()
    #: Whom a replica follows.
    master: Address | None = None


class NodeFacts(Struct, frozen=True):
    """One answer of one node, or the error in its place. Times are monotonic seconds."""

    address: Address
    sent: float
    received: float
    replication: Replication | None = None
    run_id: str = ""
    error: UnavailableError | None = None
    #: The server's own time, in microseconds.
    time_us: int | None = None

    @property
    def role(self) -> str:
        """ "master", "slave", or empty when it did not answer."""
        return self.replication.role if self.replication else ""


def parse_replication(text: bytes | str) -> Replication:
    """Read the reply to `INFO replication`; raises `ProtocolError` when it is none."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        fields = to_fields(text)
        role = "master" if fields["role"] == "master" else "slave"
        listed = [_pairs(v) for k, v in fields.items() if _LISTED.match(k)]
        return Replication(
            role=role,
            replid=fields["master_replid"],
            replid2=fields.get("master_replid2", "").strip("0"),
            offset=whole(fields["master_repl_offset" if role == "master" else "slave_repl_offset"]),
            link_up=fields.get("master_link_status") == "up",
            syncing=fields.get("master_sync_in_progress", "0") == "1",
            priority=whole(fields.get("slave_priority", "100")),
            replicas=tuple(
                address
                for r in listed
                if r.get("state") == "online" and (address := to_address(r["ip"], r["port"])) is not None
            ),
            master=to_address(fields["master_host"], fields["master_port"]) if "master_host" in fields else None,
        )
    except (AttributeError, KeyError, ValueError) as error:
        raise ProtocolError(f"INFO replication is not understood: {error!r} in {text!r:.200}") from error


def _pairs(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


async def ask(endpoint: AsyncEndpoint, timeout: float, clock: Clock) -> NodeFacts:
    """Ask one node within `timeout` seconds; never raises for what the node does.

    The run id comes from the greeting of the connection: a connection never changes its process.
    """
    run_id = ""

    def note(greeting: Greeting) -> bool:
        nonlocal run_id
        run_id = greeting.run_id
        return True

    sent = clock()
    try:
        reply, time = await endpoint.execute([("INFO", "replication"), ("TIME",)], sent + timeout, note)
        if isinstance(reply, ServerError):
            raise reply
        said = parse_replication(reply)
        return NodeFacts(endpoint.address, sent, clock(), said, run_id, time_us=parse_time(time))
    except Loading as error:
        loading = Replication("slave", "", syncing=True)
        return NodeFacts(endpoint.address, sent, clock(), loading, run_id, error)
    except UnavailableError as error:
        return NodeFacts(endpoint.address, sent, clock(), None, run_id, error)
