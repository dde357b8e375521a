"""Reading what sentinels and data nodes say; the master of a fixed list; the tools of the watchers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from evercache.errors import AccessDenied, ProtocolError, ServerError, ServiceUnknown
from evercache.protocol.topology import SentinelSeen
from evercache.protocol.types import Address
from evercache.topology.answers import BRIEF, concerns, parse_answer, parse_role, parse_vote, question, repeated
from evercache.topology.base import Bell, mapper
from evercache.topology.facts import NodeFacts, Replication, parse_replication
from evercache.topology.replicated import elect

S, HELD = Address("s", 26379), Address("10.0.0.1", 6379)
FACTS = {
    b"ip": b"10.0.0.1",
    b"port": b"6379",
    b"flags": b"master,o_down",
    b"config-epoch": b"7",
    b"num-other-sentinels": b"2",
    b"failover-timeout": b"3000",
}
REPLICA = [b"ip", b"10.0.0.2", b"port", b"6380", b"flags", b"slave", b"slave-priority", b"0"]
OTHER = {
    b"ip": b"10.0.0.9", b"port": b"26379", b"runid": b"xyz", b"last-hello-message": b"1500",
    b"voted-leader": b"me", b"voted-leader-epoch": b"8",
}  # fmt: skip


def replies() -> list[object]:
    return [[b"10.0.0.1", b"6379"], FACTS, [REPLICA], [OTHER], b"me"]


def same(address: Address) -> Address:
    return address


@pytest.mark.parametrize(
    ("printed", "epoch"),
    [(b"-1", 2**64 - 1), (b"-9223372036854775808", 2**63), (b"9223372036854775807", 2**63 - 1)],
)
def test_an_epoch_has_no_sign(printed: bytes, epoch: int) -> None:
    """Sentinels count epochs without a sign and print them with one. Read with the sign, the newest one was the
    oldest, and a process followed the sentinels that still named a former master."""
    where, facts, *rest = replies()
    assert isinstance(facts, dict)
    answer = parse_answer("m", S, 1.0, [where, facts | {b"config-epoch": printed}, *rest], same)
    assert answer.epoch == epoch


def test_an_answer_in_both_protocols() -> None:
    answer = parse_answer("m", S, 1.0, replies(), same)
    assert (answer.master, answer.epoch, answer.known_sentinels) == (HELD, 7, 3)
    assert answer.flags == {"master", "o_down"}
    assert answer.failover_timeout == 3.0
    assert answer.replicas[0].address == Address("10.0.0.2", 6380)
    assert answer.replicas[0].priority == 0
    assert answer.others == (SentinelSeen(Address("10.0.0.9", 26379), "xyz", 1.5, "me", 8),)
    assert answer.ident == "me"


def test_the_question_changes_nothing() -> None:
    """IS-MASTER-DOWN-BY-ADDR votes, and raises the epoch of all sentinels for ever."""
    reads = {"GET-MASTER-ADDR-BY-NAME", "MASTER", "REPLICAS", "SENTINELS", "MYID"}
    assert {command[1] for command in question("m")} == reads


def test_a_brief_question_repeats_the_last_answer() -> None:
    last = parse_answer("m", S, 1.0, replies(), same)
    assert [command[1] for command in question("m")[:BRIEF]] == ["GET-MASTER-ADDR-BY-NAME", "MASTER"]
    again = repeated("m", last, 2.0, replies()[:BRIEF], same)
    assert again is not None
    assert (again.sent, again.replicas, again.others, again.ident) == (2.0, last.replicas, last.others, "me")


@pytest.mark.parametrize(
    "changed",
    [
        [[b"10.0.0.2", b"6379"], FACTS],
        *([[b"10.0.0.1", b"6379"], {**FACTS, **change}] for change in (
            {b"config-epoch": b"8"}, {b"flags": b"master"}, {b"flags": b"master,o_down,failover_in_progress"},
            {b"num-other-sentinels": b"3"}, {b"down-after-milliseconds": b"1"},
        )),
        [[b"10.0.0.1", b"6379"], ServerError("ERR No such master with that name")],
        [None, FACTS],
    ],
)  # fmt: skip
def test_a_brief_question_notices_each_change(changed: list[object]) -> None:
    last = parse_answer("m", S, 1.0, replies(), same)
    assert repeated("m", last, 2.0, changed, same) is None


def test_votes() -> None:
    def message(channel: bytes, data: bytes) -> list[bytes]:
        return [b"pmessage", channel, channel, data]

    assert parse_vote(message(b"+vote-for-leader", b"abc 5")) == ("abc", 5)
    assert parse_vote(message(b"+vote-for-leader", b"abc")) is None
    assert parse_vote(message(b"+vote-for-leader", b"abc x")) is None
    assert parse_vote(message(b"+new-epoch", b"abc 5")) is None
    assert parse_vote([b"psubscribe", b"+vote-for-leader", 1]) is None


def test_the_address_map_applies_to_all() -> None:
    mapped = mapper({HELD: Address("localhost", 1), Address("10.0.0.2", 6380): Address("localhost", 2)})
    answer = parse_answer("m", S, 1.0, replies(), mapped)
    assert answer.master == Address("localhost", 1)
    assert answer.replicas[0].address == Address("localhost", 2)
    assert answer.others[0].address == Address("10.0.0.9", 26379)
    assert mapper(lambda a: Address(a.host, 9))(HELD) == Address("10.0.0.1", 9)


@pytest.mark.parametrize("first", [None, ServerError("ERR No such master with that name")])
def test_an_unknown_service(first: object) -> None:
    answer = parse_answer("m", S, 1.0, [first, *replies()[1:]], same)  # type: ignore[list-item]
    assert isinstance(answer.error, ServiceUnknown)


def test_errors_and_nonsense_become_the_error_of_the_answer() -> None:
    denied = AccessDenied("NOPERM no")
    answer = parse_answer("m", S, 1.0, [denied, *replies()[1:]], same)  # type: ignore[list-item]
    assert answer.error is denied
    for odd in ([b"PONG"], [[b"x"], {}, [], [], b"me"], [[b"h", b"1"], 5, [], [], b""]):
        answer = parse_answer("m", S, 1.0, odd, same)  # type: ignore[arg-type]
        assert isinstance(answer.error, ProtocolError)
    # What only helps may be forbidden.
    few = [*replies()[:3], denied, denied]
    answer = parse_answer("m", S, 1.0, few, same)  # type: ignore[arg-type]
    assert answer.error is None
    assert answer.others == ()


def test_role_and_events() -> None:
    assert parse_role([b"master", 5, []]) == "master"
    assert parse_role(AccessDenied("NOPERM no")) == ""
    event = [b"pmessage", b"+switch-master", b"+switch-master", b"m 10.0.0.1 6379 10.0.0.2 6380"]
    assert concerns(event, "m")
    assert not concerns(event, "m2")
    assert not concerns([b"psubscribe", b"+slave", 1], "m")


def test_info_replication() -> None:
    master = parse_replication(
        b"# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"
        b"slave0:ip=10.0.0.2,port=6380,state=online,offset=9,lag=0,type=replica\r\n"
        b"slave1:ip=10.0.0.3,port=6381,state=wait_bgsave,offset=0,lag=0\r\n"
        b"master_replid:aa\r\nmaster_replid2:0000\r\nmaster_repl_offset:827\r\n"
    )
    assert (master.role, master.offset, master.replid2) == ("master", 827, "")
    assert master.replicas == (Address("10.0.0.2", 6380),)
    slave = parse_replication(
        "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:up\r\n"
        "master_sync_in_progress:0\r\nslave_repl_offset:800\r\nslave_priority:0\r\nmaster_replid:aa\r\n"
        "master_repl_offset:800\r\n"
    )
    assert (slave.role, slave.link_up, slave.offset, slave.priority) == ("slave", True, 800, 0)
    with pytest.raises(ProtocolError):
        parse_replication(b"role:master\r\n")


def node(host: str, role: str, replid: str = "g", replid2: str = "") -> NodeFacts:
    said = Replication(role, replid, replid2, link_up=role == "slave") if role else None
    return NodeFacts(Address(host), 1.0, 1.1, said, run_id=host)


def chosen(*facts: NodeFacts, current: str = "a", replid: str = "g", doubtful: bool = True) -> str | None:
    found = elect(facts, Address(current), replid, doubtful)
    return found.address.host if found else None


def test_the_election_in_a_fixed_list() -> None:
    assert chosen(node("a", "master"), node("b", "slave"), node("c", "slave")) == "a"
    # The old master came back alone; the promoted one has the follower.
    assert chosen(node("a", "master", "h"), node("b", "master", "n", "g"), node("c", "slave", "n")) == "b"
    # Two nodes only: descent tells.
    assert chosen(node("a", ""), node("b", "master", "n", "g")) == "b"
    # A stranger is not believed at once, but later, and at the start.
    assert chosen(node("a", ""), node("b", "master", "x")) is None
    assert chosen(node("a", ""), node("b", "master", "x"), doubtful=False) == "b"
    # The master restarted: another id at the same address.
    assert chosen(node("a", "master", "new"), node("b", "slave", "g")) == "a"
    assert chosen(node("a", "slave"), node("b", "slave")) is None


async def test_the_bell_rings_from_any_thread_and_is_not_lost() -> None:
    bell = Bell()
    bell.ring()  # nobody there yet: no harm
    bell.attach()
    assert not await bell.wait(0)
    threading.Thread(target=bell.ring).start()
    assert await bell.wait(5)
    bell.ring()
    await asyncio.sleep(0)
    assert await bell.wait(0), "rung while nobody waited"


def test_the_bell_of_a_closed_loop_is_silent() -> None:
    bell = Bell()

    async def attach() -> None:
        bell.attach()

    asyncio.run(attach())
    bell.ring()
