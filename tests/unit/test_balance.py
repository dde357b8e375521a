"""The choice among replicas."""

from __future__ import annotations

import random
from collections import Counter
from time import perf_counter

import pytest

from evercache.protocol.balance import NOISE, WARM_UP, Balancer, LatencyScore


class Node:
    def __init__(self, mean: float) -> None:
        self.mean = mean
        self.score = LatencyScore()
        self.outstanding = 0


def run(nodes: list[Node], reads: int, seed: int = 1, noise: float = 0.5, gap: float = 0.0) -> Counter[int]:
    """One sequential caller; latencies are lognormal around each node's mean, with pauses of 5 ms."""
    rng = random.Random(seed)
    balancer = Balancer(rng.random)
    served: Counter[int] = Counter()
    now = 0.0
    for _ in range(reads):
        node = balancer.choose(nodes, now)
        latency = node.mean * rng.lognormvariate(0, noise) + (0.005 if rng.random() < 0.01 else 0.0)
        now += latency + gap
        node.score.record(latency, now)
        served[nodes.index(node)] += 1
    return served


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_two_equals_share_evenly_with_one_sequential_caller(seed: int, gap: float) -> None:
    served = run([Node(0.0001), Node(0.00012)], 3000, seed, gap=gap)
    assert 0.42 <= served[0] / 3000 <= 0.58


@pytest.mark.parametrize("seed", range(5))
def test_three_equals_share_evenly(seed: int) -> None:
    served = run([Node(0.0001), Node(0.00011), Node(0.00012)], 3000, seed)
    assert all(0.26 <= served[i] / 3000 <= 0.40 for i in range(3))


def test_a_newcomer_whose_first_reads_connect_gets_its_share() -> None:
    nodes = [Node(0.0001), Node(0.0001)]
    run(nodes, 1000)
    third = Node(0.0001)
    third.score.record(0.004, 0.5)  # TCP, greeting, AUTH
    served = run([*nodes, third], 2000)
    assert 0.25 <= served[2] / 2000 <= 0.40


@pytest.mark.parametrize(("factor", "most"), [(3, 0.30), (10, 0.10), (300, 0.02)])
def test_a_slower_one_gets_less(factor: float, most: float) -> None:
    served = run([Node(0.001), Node(0.001 * factor)], 3000, noise=0.1)
    assert served[1] / 3000 <= most


def test_a_slow_one_that_recovers_gets_its_share_back() -> None:
    nodes = [Node(0.0001), Node(0.002)]
    assert run(nodes, 2000, noise=0.1)[1] < 200
    nodes[1].mean = 0.0001
    for node in nodes:
        node.score.at = 0.0  # the clock of `run` starts anew
    run(nodes, 20_000, noise=0.1)
    for node in nodes:
        node.score.at = 0.0
    assert 0.4 <= run(nodes, 2000, noise=0.1)[1] / 2000 <= 0.6


def test_one_pause_does_not_banish() -> None:
    score = LatencyScore()
    for _ in range(20):
        score.record(0.0001, 1.0)
    score.record(0.5, 1.0)
    assert score.value <= 0.0002 + 1e-9
    for _ in range(4):
        score.record(0.5, 1.0)
    assert score.value > 0.003, "but a server that stays slow is known soon"


def test_outstanding_requests_count() -> None:
    a, b = Node(0.001), Node(0.001)
    for node in (a, b):
        for _ in range(WARM_UP):
            node.score.record(0.001, 0.0)
    a.outstanding = 9
    balancer = Balancer(random.Random(3).random)
    served = Counter(balancer.choose([a, b], 0.0) is a for _ in range(1000))
    assert served[True] < 30


@pytest.mark.parametrize("mean", [0.0001, 0.001], ids=["quick", "not quick"])
@pytest.mark.parametrize(
    ("queues", "share"), [((0, 0), 0.5), ((1, 0), 0.5), ((2, 0), 0.1), ((5, 1), 0.1), ((9, 0), 0.0099)]
)
def test_the_dearer_one_keeps_its_share(mean: float, queues: tuple[int, int], share: float) -> None:
    """1 / (1 + ratio²) beyond a factor of two, however the choice is arrived at, and whichever comes first."""
    nodes = [Node(mean), Node(mean)]
    for node, queue in zip(nodes, queues, strict=True):
        node.outstanding = queue
        for _ in range(WARM_UP):
            node.score.record(mean, 0.0)
    balancer = Balancer(random.Random(5).random)
    for order in (nodes, nodes[::-1]):
        served = sum(balancer.choose(order, 0.0) is nodes[0] for _ in range(20_000))
        assert served / 20_000 == pytest.approx(share, rel=0.15, abs=0.003)


def test_quick_says_when_another_quick_sample_changes_nothing() -> None:
    score = LatencyScore()
    for _ in range(WARM_UP):
        assert not score.quick, "not known yet"
        score.record(0.0001, 1.0)
    assert score.quick
    for _ in range(4):
        score.record(0.01, 1.0)
    assert not score.quick
    assert score.value > NOISE
    for _ in range(20):
        score.record(0.0001, 1.0)
    assert score.quick


def test_pauses_now_and_then_do_not_add_up() -> None:
    """What the hot path does not record would have brought the score down between two pauses."""
    score = LatencyScore()
    for _ in range(WARM_UP):
        score.record(0.0002, 1.0)
    for _ in range(20):
        score.record(0.01, 1.0)
        for _ in range(10):
            if not score.quick:
                score.record(0.0002, 1.0)
        assert score.quick
        assert score.value <= 0.00025


def test_the_shares_are_even_on_a_busy_machine() -> None:
    """Of ten reads one meets a pause, which is neither server's fault."""
    source, uneven = random.Random(1), 0
    balancer = Balancer(source.random)
    for _ in range(150):
        nodes, served, now = [Node(0.0002), Node(0.0002)], 0, 0.0
        for _ in range(1000):
            node = balancer.choose(nodes, now)
            served += node is nodes[0]
            took = 0.0002 if source.random() > 0.1 else source.uniform(0.004, 0.02)
            now += took
            if took >= NOISE or not node.score.quick:
                node.score.record(took, now)
        uneven += not 400 <= served <= 600
    assert uneven <= 5


def test_an_unused_score_fades() -> None:
    score = LatencyScore()
    for _ in range(WARM_UP):
        score.record(1.0, 0.0)
    assert score.decayed(0.0) == pytest.approx(1.0)
    assert score.decayed(30.0) < 0.06


def test_a_choice_is_cheap() -> None:
    nodes = [Node(0.001) for _ in range(3)]
    for node in nodes:
        for _ in range(WARM_UP):
            node.score.record(0.001, 0.0)
    balancer = Balancer(random.random)
    best = 1.0
    for _ in range(20):
        start = perf_counter()
        for _ in range(200):
            balancer.choose(nodes, 1.0)
        best = min(best, (perf_counter() - start) / 200)
    assert best < 10e-6  # about 1 microsecond on an idle machine
