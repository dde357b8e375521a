"""What the library would use a node for, judged from what the servers said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evercache.errors import ConfigurationError
from evercache.ops.remote import targets_of
from evercache.ops.survey import NodeReport, SentinelReport, Survey, _elected, _judged, healthy
from evercache.protocol.types import Address

A, B, C = (Address("127.0.0.1", port) for port in (7001, 7002, 7003))
MASTER = NodeReport("node-1", A, "up", role="master", offset=100)
REPLICA = NodeReport("node-2", B, "up", role="replica", link_up=True, offset=90, lag_seconds=1.0)
SENTINEL = SentinelReport(
    "sentinel-1", C, "up", master=A, epoch=3, flags="master", healthy_replicas=1, healthy_sentinels=0
)


def judge(*nodes: NodeReport, master: Address | None = A) -> tuple[NodeReport, ...]:
    return tuple(_judged(node, nodes, master) for node in nodes)


def test_a_healthy_pair() -> None:
    master, replica = judge(MASTER, REPLICA)
    assert (master.use, replica.use, replica.lag_bytes) == ("writes", "reads", 10)
    assert Survey((master, replica), (SENTINEL,), A).whole


def test_a_master_alone_serves_reads_as_well() -> None:
    master, replica = judge(MASTER, replace(REPLICA, link_up=False))
    assert master.use == "writes and reads"
    assert (replica.use, replica.in_sync) == ("nothing", False)
    assert "link to the master is down" in replica.reason


def test_a_master_that_takes_no_writes_yet_is_not_whole() -> None:
    """It counts a replica a moment after that one has the data: until then a new process found nothing cached."""
    for counted, whole in ((0, False), (1, True), (None, True)):
        judged = judge(replace(MASTER, counted=counted), REPLICA)
        assert Survey(judged, (SENTINEL,), A).whole is whole
    waits, _ = judge(replace(MASTER, counted=0), REPLICA)
    assert (waits.use, waits.in_sync) == ("nothing", False)
    assert "min-replicas-to-write" in waits.reason


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (replace(REPLICA, state="loading"), "loading"),
        (replace(REPLICA, state="silent"), "does not answer"),
        (replace(REPLICA, state="denied", detail="WRONGPASS"), "WRONGPASS"),
        (replace(REPLICA, lag_seconds=11.0), "received nothing from its master for 11 s"),
        (replace(REPLICA, role="master"), "the sentinels name 127.0.0.1:7001"),
    ],
)
def test_a_node_that_is_used_for_nothing_says_why(node: NodeReport, words: str) -> None:
    judged = judge(MASTER, node)
    assert judged[1].use == "nothing"
    assert words in judged[1].reason
    assert any(words in problem for problem in Survey(judged, (SENTINEL,), A).problems)


def test_the_highest_epoch_names_the_master_and_most_decide_within_one() -> None:
    old = replace(SENTINEL, master=A, epoch=3)
    new = replace(SENTINEL, master=B, epoch=4)
    assert _elected((old, old, new)) == B
    assert _elected((new, replace(new, master=A), new)) == B
    assert _elected((replace(SENTINEL, master=None),)) is None


@pytest.mark.parametrize(
    ("sentinel", "words"),
    [
        (replace(SENTINEL, state="silent", detail="no answer"), "no answer"),
        (replace(SENTINEL, master=B), "names 127.0.0.1:7002"),
        (replace(SENTINEL, master=None, detail="it does not know"), "it does not know"),
        (replace(SENTINEL, flags="master,s_down"), "s_down"),
        (replace(SENTINEL, healthy_replicas=0), "sees no replica"),
    ],
)
def test_a_sentinel_that_disagrees_keeps_it_from_being_whole(sentinel: SentinelReport, words: str) -> None:
    seen = Survey(judge(MASTER, REPLICA), (sentinel,), A)
    assert not seen.whole
    assert words in seen.problems[0]


def test_settled_means_one_master_and_no_failover() -> None:
    nodes = judge(MASTER, REPLICA)
    assert Survey(nodes, (SENTINEL, replace(SENTINEL, state="silent", master=None)), A).settled
    assert not Survey(nodes, (SENTINEL, replace(SENTINEL, master=B)), A).settled
    assert not Survey(nodes, (replace(SENTINEL, flags="master,failover_in_progress"),), A).settled
    assert not Survey(nodes, (), A).settled


def test_what_another_sentinel_said_of_the_master_is_not_its_own_health() -> None:
    assert healthy("sentinel,master_down")
    assert not healthy("s_down,sentinel")


def test_targets_of_urls() -> None:
    found = targets_of("sentinel://:a@h1:1,h2:2/shop?sentinel_password=b")
    assert found.discover
    assert found.service == "shop"
    assert list(found.sentinels) == ["h1:1", "h2:2"]
    assert found.sentinel_options.sentinel
    found = targets_of("redis://:a@h1:1?replicas=h2:2,h3:3")
    assert list(found.nodes) == ["h1:1", "h2:2", "h3:3"]
    assert not found.sentinels
    with pytest.raises(ConfigurationError, match="no servers"):
        targets_of("memory://")
