"""What a check declares of itself: the checks that fire as well because of what it has found."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.doctor_breaks import BREAKS, ELSEWHERE, NOT_FOLLOWED
from tests.unit.doctor_facts import info, node, sentinel, sound

from evercache.ops.doctor import examination, examine, registered
from evercache.ops.doctor.facts import Facts, Group
from evercache.ops.doctor.registry import Check, Finding, Severity, found, is_command


def _check(name: str, findings: list[Finding], explains: frozenset[str] = frozenset()) -> Check:
    def run(facts: Facts) -> Iterator[Finding]:
        yield from findings

    return Check(name, name, "memory", Severity.critical, "why", "mend", False, False, "", run, explains)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """Checks of the test instead of the registered ones."""
    checks: list[Check] = []
    monkeypatch.setattr(examination, "registered", lambda: tuple(checks))
    return checks


def test_what_follows_is_what_the_check_of_the_cause_declares(made: list[Check]) -> None:
    cause = found("the host of a:1 is on fire", "water", disables="a:1")
    made += [
        _check("silent", [found("a:1 is silent", "start it"), found("b:1 is silent", "start it")]),
        _check("fire", [cause], frozenset({"silent"})),
        _check("slow", [found("a:1 is slow", "wait")]),
    ]
    of = {result.check.name: [one.cause for one in result.findings] for result in examine(sound())}
    assert of == {"silent": ["fire", ""], "fire": [""], "slow": [""]}


def test_nothing_follows_from_a_finding_that_disables_no_server(made: list[Check]) -> None:
    made += [
        _check("fire", [found("a:1 is warm", "water")], frozenset({"silent"})),
        _check("silent", [found("a:1 is silent", "start it")]),
    ]
    assert all(not one.cause for result in examine(sound()) for one in result.findings)


def test_checks_explain_checks_that_there_are() -> None:
    names = {one.name for one in registered()}
    assert [one.name for one in registered() if one.explains] == ["saves-and-clocks", "certificates"]
    for one in registered():
        assert one.explains <= names - {one.name}


def test_a_failed_rewrite_disables_nothing_and_a_failed_write_does() -> None:
    """After the first the server goes on; after the second it refuses writes, and PING."""
    for field, disabled in (("aof_last_bgrewrite_status", ""), ("aof_last_write_status", "10.0.0.1:6379")):
        facts = info(0, **{field: "err"})(sound())
        (result,) = (one for one in examine(facts) if one.check.name == "saves-and-clocks")
        assert [one.disables for one in result.findings if one.state == "found"] == [disabled]
    assert replace(result).own


def test_the_advice_of_every_check_is_followed_by_a_test() -> None:
    """On real servers, or there is a reason why not; a new check has to be tried as well."""
    tried = {way.check for way in BREAKS.values()}
    names = {one.name for one in registered()}
    assert tried | ELSEWHERE.keys() | NOT_FOLLOWED.keys() == names
    assert not NOT_FOLLOWED.keys() & (tried | ELSEWHERE.keys())
    assert all(NOT_FOLLOWED.values())
    for where in ELSEWHERE.values():
        file, _, name = where.partition("::")
        assert f"\ndef {name}(" in (Path(__file__).parents[1] / "real" / file).read_text()


def test_a_command_has_what_others_have_named_as_words_of_a_shell() -> None:
    """Names of groups and users come from servers, and the command is copied into a shell."""
    name = "x; touch owned\nvalkey-cli -h 1 -p 1 FLUSHALL"
    facts = sound()
    own = facts.sentinels[0].groups[0]
    facts = sentinel(0, groups=(own, Group(name, {**own.master, "name": name})))(facts)
    facts = node(1, sentinel_users={name: {"CLIENT PAUSE": "no", "PING": "no"}})(facts)
    mends = [one.mend for result in examine(facts) for one in result.findings if one.mend]
    commands = [shlex.split(line) for mend in mends for line in mend.splitlines() if is_command(line)]
    plain = "x; touch owned?valkey-cli -h 1 -p 1 FLUSHALL"
    assert ["valkey-cli", "-h", "10.0.0.1", "-p", "26379", "SENTINEL", "REMOVE", plain] in commands
    assert [
        "valkey-cli",
        "-h",
        "10.0.0.2",
        "-p",
        "6379",
        "ACL",
        "SETUSER",
        plain,
        "+client|pause",
        "+ping",
    ] in commands
    assert all(words[:2] == ["valkey-cli", "-h"] for words in commands)
    assert "'+client|pause'" in "".join(mends), "a shell would run `pause`"
