"""What speaks against a planned failover."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evercache.ops.handover import Facts, NodeSettings, obstacles
from evercache.ops.survey import NodeReport, SentinelReport, Survey
from evercache.protocol.types import Address

MASTER, ONE, TWO = (Address("10.0.0.1", port) for port in (7001, 7002, 7003))
SENTINELS = tuple(Address("10.0.0.1", port) for port in (9001, 9002, 9003))


def node(name: str, address: Address, **other: object) -> NodeReport:
    usual = {"state": "up", "role": "replica", "link_up": True, "in_sync": True, "lag_bytes": 0, "use": "reads"}
    return NodeReport(name, address, **(usual | other))  # type: ignore[arg-type]


def sound() -> Facts:
    nodes = (node("a", MASTER, role="master", use="writes"), node("b", ONE), node("c", TWO))
    sentinels = tuple(
        SentinelReport(f"s{number}", address, "up", "", MASTER, 3, "master", (ONE, TWO), 2, 2)
        for number, address in enumerate(SENTINELS)
    )
    settings = dict.fromkeys((MASTER, ONE, TWO), NodeSettings(100, True, True, 0))
    return Facts(Survey(nodes, sentinels, MASTER), settings, SENTINELS[0], "OK 3 usable Sentinels")


def changed(facts: Facts, address: Address, **other: object) -> Facts:
    """One node is otherwise."""
    assert facts.seen is not None
    nodes = tuple(
        replace(one, **other) if one.address == address else one  # type: ignore[arg-type]
        for one in facts.seen.nodes
    )
    return replace(facts, seen=replace(facts.seen, nodes=nodes))


def test_nothing_speaks_against_a_sound_one() -> None:
    assert obstacles(sound()) == []
    assert sound().candidates == (ONE, TWO)


def test_settings_that_are_hidden_are_no_obstacle() -> None:
    assert obstacles(replace(sound(), settings={})) == []


def test_nothing_is_known() -> None:
    (only,) = obstacles(Facts())
    assert "no master is known" in only


@pytest.mark.parametrize(
    ("flags", "named"), [("master,failover_in_progress", MASTER), ("master", ONE)], ids=["under way", "disagree"]
)
def test_unsettled(flags: str, named: Address) -> None:
    facts = sound()
    assert facts.seen is not None
    third = replace(facts.seen.sentinels[2], flags=flags, master=named)
    facts = replace(facts, seen=replace(facts.seen, sentinels=(*facts.seen.sentinels[:2], third)))
    (only,) = obstacles(facts)
    assert "wait until" in only


def test_no_majority() -> None:
    (only,) = obstacles(replace(sound(), quorum="NOQUORUM 1 usable Sentinels"))
    assert "could not authorise" in only
    assert "NOQUORUM" in only


def test_no_sentinel_that_answers() -> None:
    (only,) = obstacles(replace(sound(), sentinel=None, quorum=""))
    assert "no sentinel answers" in only


def test_a_master_that_is_dead_hands_nothing_over() -> None:
    (only,) = obstacles(changed(sound(), MASTER, state="silent", use="nothing"))
    assert "Sentinel will replace it by itself" in only


def test_a_master_that_refuses_us_is_not_dead() -> None:
    (only,) = obstacles(changed(sound(), MASTER, state="denied", use="nothing", detail="WRONGPASS invalid"))
    assert "WRONGPASS invalid" in only
    assert "Sentinel" not in only


def test_no_replica_could_be_promoted_and_why() -> None:
    facts = changed(sound(), ONE, use="nothing", reason="its link to the master is down")
    assert obstacles(facts) == [], "there is another one"
    facts = replace(facts, settings={TWO: NodeSettings(priority=0)})
    (only,) = obstacles(facts)
    assert "b: its link to the master is down" in only
    assert "c: its replica-priority is 0" in only


def test_a_replica_that_would_be_promoted_and_lacks_writes() -> None:
    facts = changed(sound(), ONE, use="nothing", reason="its link to the master is down")
    assert obstacles(replace(facts, promotable=(TWO,))) == []
    (only,) = obstacles(replace(facts, promotable=(ONE, TWO)))
    assert "lacks writes (b: its link to the master is down)" in only


def test_a_replica_that_is_far_behind() -> None:
    (only,) = obstacles(changed(sound(), TWO, lag_bytes=50_000_000))
    assert "c is 50,000,000 bytes behind" in only


def test_an_old_master_that_could_not_follow() -> None:
    facts = sound()
    settings = {**facts.settings, MASTER: NodeSettings(100, True, False, 0)}
    found = obstacles(replace(facts, settings=settings))
    assert all("set primaryauth" in one for one in found)
    assert len(found) == 2


def test_a_new_master_that_would_refuse_writes() -> None:
    facts = sound()
    settings = {**facts.settings, ONE: NodeSettings(100, True, True, 3)}
    (only,) = obstacles(replace(facts, settings=settings))
    assert "it wants 3 replicas (min-replicas-to-write), and 2 would follow it" in only
