"""While the master is out of reach its log is heard at the replicas (rule 14)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.gate import GateLoop, Rule
from tests.servers import Deployment, wait_for

from evercache import Cache
from evercache.protocol.types import Address


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    # Nobody is cut off but one cache: there is no failover.
    with Deployment.start(replicas=2, down_after_ms=60_000) as deployment:
        yield deployment


@pytest.mark.parametrize("ill", [Rule(silent=True), Rule(closed=True)], ids=["silent", "closed"])
def test_who_is_cut_off_from_the_master_hears_of_invalidations(deployment: Deployment, ill: Rule) -> None:
    version = 1
    with GateLoop() as gates:
        master = deployment.master()
        gate = gates.gate(master.port)

        def mapped(address: Address) -> Address:
            return Address(address.host, gate.port) if address.port == master.port else address

        with (
            Cache(deployment.url, namespace="heard", address_map=mapped) as cut_off,
            Cache(deployment.url, namespace="heard") as other,
        ):

            @cut_off.cached(ttl=600, tags=["page"])
            def page() -> int:
                return version

            def changed() -> None:
                nonlocal version
                version += 1
                assert other.invalidate_tag("page"), "the other one reaches the master"
                wait_for(lambda: page() == version, timeout=10, what=f"version {version}")

            changed()
            wait_for(lambda: all(page() == version for _ in range(20)), what="both replicas to have it")
            gate.set(ill)
            changed()
            changed()
            gate.heal()
            changed()
