"""`evercache failover` when something goes wrong between the pause of the writes and the promotion."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from tests.real.test_planned_failover import Writing, command, deployment_of
from tests.servers import Deployment, wait_for

from evercache.errors import DeploymentError, EvercacheError, FailoverRefused
from evercache.ops import failover
from evercache.ops.failover import Failover, HandedOver
from evercache.ops.remote import targets_of

#: Its servers do not coordinate a failover: writes are paused at the master.
KIND = "redis6"
WAIT, ORDERED = "writes wait at", "the replicas have everything"


def at(moment: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Something happens when that is said."""

    def say(text: str) -> None:
        if text.startswith(moment):
            act()

    return say


def hand_over(deployment: Deployment, say: Callable[[str], None], url: str = "") -> HandedOver:
    return Failover(targets_of(url or deployment.url), say).run()


def takes_writes(deployment: Deployment) -> bool:
    return bool(deployment.nodes[0].cli("SET", "k", "v", timeout=1) == "OK")


def test_a_replica_that_is_behind_and_would_be_preferred() -> None:
    """Sentinel promotes the lowest priority first, also one whose link is down for a while."""
    with Deployment.start(KIND, replica_delays=(0.001,), down_after_ms=5000) as whole:
        master, behind = whole.nodes[:2]
        behind.cli("CONFIG", "SET", "replica-priority", 1)
        whole.proxies[0].cut()
        wait_for(lambda: behind.info("replication")["master_link_status"] == "down", 10, "the link to be down")
        assert master.cli("SET", "acknowledged", "x") == "OK"
        with pytest.raises(FailoverRefused, match="might be promoted that lacks writes") as caught:
            hand_over(whole, lambda text: None)
        assert f"({behind.address}: its link to the master is down)" in str(caught.value)
        assert takes_writes(whole)


@pytest.mark.long
def test_whoever_listens_has_gone() -> None:
    """A message that cannot be written ends nothing half-way."""

    def gone() -> None:
        raise BrokenPipeError

    with deployment_of(KIND) as deployment:
        with Writing(deployment.url) as writing:
            done = hand_over(deployment, at(ORDERED, gone))
            time.sleep(0.3)
        new = deployment.master()
        assert done.new == new.address
        assert writing.lost(new) == []


@pytest.mark.long
def test_the_terminal_is_closed() -> None:
    """Whoever closes it, or stops the command by SIGTERM, leaves no master that is half replaced."""
    with deployment_of(KIND) as deployment:
        old = deployment.master()
        with Writing(deployment.url) as writing:
            running = command(deployment, "--yes")
            assert running.stderr is not None
            assert running.stdout is not None
            for line in running.stderr:
                if WAIT in line:
                    break
            running.send_signal(signal.SIGHUP)
            running.stderr.close()
            running.stdout.close()
            running.wait(90)
            assert old.cli("ROLE")[0] == "slave"
        assert running.returncode == -signal.SIGHUP
        assert writing.lost(deployment.wait_new_master(old)) == []


@pytest.mark.long
def test_it_stood_still_until_the_pause_was_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is promoted without a pause, and what may be lost is said."""
    monkeypatch.setattr(failover, "_PAUSE", 4.0)
    with Deployment.start(KIND, down_after_ms=20_000, failover_timeout_ms=30_000) as deployment:
        with pytest.raises(FailoverRefused, match="nothing was changed"):
            hand_over(deployment, at(WAIT, lambda: time.sleep(4.5)))
        assert takes_writes(deployment)
        with pytest.raises(DeploymentError, match=r"is the master, but .* may be lost"):
            hand_over(deployment, at(ORDERED, lambda: time.sleep(6)))
        assert deployment.nodes[0].cli("ROLE")[0] == "slave"


def test_sentinels_that_replace_the_master_by_themselves_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writes wait for so long that it seems dead to them: then they wait for that promotion."""
    monkeypatch.setattr(failover, "_PAUSE", 30.0)
    with deployment_of(KIND) as deployment:
        old = deployment.master()
        with Writing(deployment.url) as writing:
            done = hand_over(deployment, at(WAIT, lambda: deployment.wait_new_master(old, 20)))
            time.sleep(0.3)
        new = deployment.master()
        assert done.new == new.address
        assert writing.lost(new) == []


def test_a_user_that_may_not_demote_the_master() -> None:
    """Said before anybody is promoted."""
    with deployment_of(KIND) as deployment:
        for node in deployment.nodes:
            node.cli("ACL", "SETUSER", "ops", "on", ">ops-secret", "~*", "&*", "+@all", "-replicaof", "-slaveof")
        url = deployment.url.replace("://:node-secret@", "://ops:ops-secret@")
        with pytest.raises(FailoverRefused, match="REPLICAOF") as caught:
            hand_over(deployment, lambda text: None, url)
        assert "secret" not in str(caught.value)
        assert takes_writes(deployment)


@pytest.mark.long
def test_a_user_that_may_not_ask_for_the_role() -> None:
    """INFO, without which nothing works, says it as well."""
    with deployment_of(KIND) as deployment:
        for node in deployment.nodes:
            node.cli("ACL", "SETUSER", "ops", "on", ">ops-secret", "~*", "&*", "+@all", "-role")
        url = deployment.url.replace("://:node-secret@", "://ops:ops-secret@")
        assert hand_over(deployment, lambda text: None, url).new == deployment.master().address


def test_a_replica_that_falls_silent_is_not_promoted() -> None:
    with deployment_of(KIND) as deployment:
        replica = deployment.nodes[2]
        try:
            with pytest.raises(FailoverRefused, match="did not catch up"):
                hand_over(deployment, at(WAIT, replica.freeze))
        finally:
            replica.thaw()
        assert takes_writes(deployment)


def test_sentinels_that_fall_silent() -> None:
    with deployment_of(KIND) as deployment:

        def freeze() -> None:
            for sentinel in deployment.sentinels:
                sentinel.freeze()

        try:
            with pytest.raises(FailoverRefused, match="no sentinel could be notified"):
                hand_over(deployment, at(WAIT, freeze))
            assert takes_writes(deployment)
        finally:
            for sentinel in deployment.sentinels:
                sentinel.thaw()


@pytest.mark.long
def test_a_master_that_stalls_as_its_writes_are_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the order when it goes on: that is said."""
    with Deployment.start(KIND, down_after_ms=30_000, failover_timeout_ms=30_000) as deployment:
        master = deployment.master()
        allowed = Failover._may_demote

        def freeze(self: Failover, *arguments: Any) -> None:
            allowed(self, *arguments)
            master.freeze()

        monkeypatch.setattr(Failover, "_may_demote", freeze)
        try:
            with pytest.raises(DeploymentError, match="writes wait there for 10 s at most"):
                hand_over(deployment, lambda text: None)
        finally:
            master.thaw()


@pytest.mark.long
def test_what_became_of_it_is_said_also_after_an_interruption() -> None:
    with deployment_of(KIND) as deployment:
        replica = deployment.nodes[2]
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            if text.startswith(WAIT):
                replica.freeze()
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

        try:
            with pytest.raises(KeyboardInterrupt):
                hand_over(deployment, say)
        finally:
            replica.thaw()
        assert any("did not catch up" in text for text in said)
        assert takes_writes(deployment)


def test_a_master_that_takes_no_more_connections() -> None:
    """Callers that wait open more and more of them: the command has one of its own all the time."""
    with deployment_of(KIND) as deployment:
        with redis.Redis(port=deployment.master().port, password=deployment.password) as admin:
            admin.ping()

            def say(text: str) -> None:
                if text.startswith(ORDERED):
                    admin.config_set("maxclients", 1)
                elif "is the master; writes stood still" in text:
                    admin.config_set("maxclients", 1000)

            with Writing(deployment.url) as writing:
                hand_over(deployment, say)
                time.sleep(0.3)
        assert writing.lost(deployment.master()) == []


def test_two_at_once() -> None:
    """The one that comes too late does not let the writes go on that wait for the other's promotion."""
    with deployment_of(KIND) as deployment:
        ready, ordered = threading.Event(), threading.Event()
        outcome: list[object] = []

        def second() -> None:
            def hold() -> None:
                ready.set()
                ordered.wait(10)

            try:
                outcome.append(hand_over(deployment, at(WAIT, hold)))
            except EvercacheError as error:
                outcome.append(error)

        other = threading.Thread(target=second)

        def first(text: str) -> None:
            if text.startswith(WAIT):
                other.start()
                ready.wait(10)
            elif text.startswith(ORDERED):
                ordered.set()

        with Writing(deployment.url) as writing:
            done = hand_over(deployment, first)
            other.join(60)
            time.sleep(0.3)
        new = deployment.master()
        assert writing.lost(new) == []
        assert done.new == new.address
        (same,) = outcome
        assert isinstance(same, HandedOver)
        assert same.new == done.new
