"""The choice of the master from what sentinels and data nodes say, and rule 17."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from evercache.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    SentinelsDisagree,
    SentinelsUnreachable,
    ServiceUnknown,
)
from evercache.protocol.topology import ReplicaSeen, RoleReport, SentinelAnswer, SentinelBook, SentinelSeen
from evercache.protocol.types import Address

S1, S2, S3 = (Address("s", i) for i in (1, 2, 3))
A, B, C = (Address(h, 6379) for h in "abc")
OTHERS = tuple(SentinelSeen(s, f"id{s.port}") for s in (S1, S2, S3))
DEAD = ConnectionFailed("dead")


def says(sentinel: Address, master: Address, epoch: int = 0, sent: float = 1.0, **more: Any) -> SentinelAnswer:
    fields: dict[str, Any] = {
        "flags": frozenset({"master"}),
        "followed_since": 0.0,
        "known_sentinels": 3,
        "ident": f"id{sentinel.port}",
        "failover_timeout": 3.0,
        "replicas": tuple(ReplicaSeen(a) for a in (A, B, C) if a != master),
        "others": tuple(o for o in OTHERS if o.address != sentinel),
    }
    return SentinelAnswer(sentinel, sent, master=master, epoch=epoch, **(fields | more))


def told(book: SentinelBook, *answers: SentinelAnswer) -> None:
    for answer in answers:
        book.heard(answer, answer.sent + 0.01)
    book.round_over(max(a.sent for a in answers) + 0.02)


@pytest.fixture
def book() -> SentinelBook:
    book = SentinelBook("shop", [S1, S2, S3])
    told(book, *(says(s, A, 0, 1.0) for s in (S1, S2, S3)))
    return book


def test_the_first_view_waits_for_every_sentinel() -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    book.heard(says(S1, A), 1.0)
    book.heard(says(S2, A), 1.0)
    assert book.view.master is None, "the third may lead a failover of which these know nothing"
    book.heard(says(S3, B, 1), 1.0)
    assert (book.view.master, book.view.epoch) == (B, 1)
    assert book.view.problem is None
    assert book.view.replicas == (A, C)


def test_a_minority_is_enough_when_nobody_else_answers() -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    told(book, says(S1, A), *(SentinelAnswer(s, 1.0, error=ConnectionFailed("x")) for s in (S2, S3)))
    assert book.view.master == A
    assert set(book.errors) == {S2, S3}
    assert book.confirmed_since(A) == -inf, "but it confirms nothing"


def test_only_the_highest_epoch_counts(book: SentinelBook) -> None:
    told(book, says(S1, B, 1, 2.0), says(S2, A, 0, 2.0), says(S3, A, 0, 2.0))
    assert (book.view.master, book.view.epoch) == (B, 1)
    for now in (2.5, 3.0, 3.5):
        told(book, says(S2, A, 0, now), says(S3, A, 0, now))
        assert book.view.master == B


def test_an_equal_epoch_may_correct_the_address(book: SentinelBook) -> None:
    told(book, says(S1, A, 1, 2.0))
    told(book, says(S1, B, 1, 3.0), says(S2, B, 1, 3.0))
    assert (book.view.master, book.view.epoch) == (B, 1)


def chooses(sentinel: Address, chosen: Address, sent: float, vote: int = 1, **more: Any) -> SentinelAnswer:
    """The leader of a failover, before it knows that its choice has been promoted."""
    replicas = tuple(ReplicaSeen(a, frozenset({"slave", "promoted"} if a == chosen else {"slave"})) for a in (B, C))
    flags = frozenset({"master", "o_down", "failover_in_progress"})
    own = f"id{sentinel.port}"
    others = tuple(replace(o, voted_for=own, vote_epoch=vote) for o in OTHERS if o.address != sentinel)
    return says(sentinel, A, 0, sent, flags=flags, replicas=replicas, others=others, **more)


def test_a_chosen_replica_is_asked_for_ten_seconds(book: SentinelBook) -> None:
    """A failover may come to nothing: nobody asks every 20 ms from then on."""
    told(book, chooses(S1, B, 2.0), says(S2, A, 0, 2.0), says(S3, A, 0, 2.0))
    assert book.promotions(11.9) == (B,)
    assert book.promotions(12.5) == ()


def test_a_chosen_replica_is_master_once_it_says_so(book: SentinelBook) -> None:
    book.role(RoleReport(B, 1.5, "slave"), 1.5)
    told(book, chooses(S1, B, 2.0), says(S2, A, 0, 2.0), says(S3, A, 0, 2.0))
    assert book.view.master == A, "chosen is not promoted"
    assert book.promotions(2.1) == (B,)
    book.role(RoleReport(B, 2.2, "master"), 2.2)
    # The former one is to follow it: with two nodes a strict write has somebody to wait for.
    assert (book.view.master, book.view.epoch, book.view.replicas) == (B, 1, (A, C))
    assert book.promotions(2.3) == ()
    assert book.confirmed_since(B) == -inf, "no majority says so yet"
    for now in (2.5, 3.0, 3.5):
        told(book, chooses(S1, B, now), says(S2, A, 0, now), says(S3, A, 0, now))
        assert book.view.master == B
    told(book, *(says(s, B, 1, 4.0) for s in (S1, S2, S3)))
    book.role(RoleReport(A, 4.1, ""), 4.1)
    assert (book.view.master, book.view.epoch, book.confirmed_since(B)) == (B, 1, 4.0)


def test_the_first_view_waits_for_the_word_of_a_chosen_replica() -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    told(book, chooses(S1, B, 2.0), says(S2, A, 0, 2.0), says(S3, A, 0, 2.0))
    assert book.view.master is None
    book.role(RoleReport(B, 2.05, "master"), 2.06)
    assert (book.view.master, book.view.epoch) == (B, 1)


@pytest.mark.parametrize("role", ["slave", ""], ids=["not yet", "no answer"])
def test_the_first_view_waits_for_a_chosen_replica_for_a_while_only(role: str) -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    told(book, chooses(S1, B, 2.0), says(S2, A, 0, 2.0), SentinelAnswer(S3, 2.0, error=ConnectionFailed("x")))
    book.role(RoleReport(B, 2.05, role), 2.06)
    assert (book.view.master is None) == (role == "")
    book.role(RoleReport(B, 2.4, role), 2.4)
    assert book.view.master == A


def test_what_a_node_said_before_it_was_chosen_does_not_count(book: SentinelBook) -> None:
    book.role(RoleReport(B, 1.9, "master"), 1.9)
    told(book, chooses(S1, B, 2.0))
    assert book.view.master == A


@pytest.mark.parametrize(
    "more",
    [{"flags": frozenset({"master"})}, {"replicas": (ReplicaSeen(B), ReplicaSeen(C))}],
    ids=["no failover", "no choice"],
)
def test_nothing_is_foreseen_without_an_election(book: SentinelBook, more: dict[str, Any]) -> None:
    told(book, replace(chooses(S1, B, 2.0), **more))
    book.role(RoleReport(B, 2.2, "master"), 2.2)
    assert book.view.master == A
    assert book.promotions(2.2) == ()


def test_the_leaders_own_election_gives_the_epoch(book: SentinelBook) -> None:
    told(book, chooses(S1, B, 2.0, vote=1))
    book.voted(S1, "id2", 2, 2.05)  # it votes for another leader
    told(book, chooses(S1, B, 2.1, vote=1), chooses(S2, C, 2.1, vote=2))
    book.role(RoleReport(B, 2.2, "master"), 2.2)
    assert (book.view.master, book.view.epoch) == (B, 1)
    book.role(RoleReport(C, 2.3, "master"), 2.3)
    assert (book.view.master, book.view.epoch) == (C, 2)


@pytest.mark.parametrize(("heard", "epoch"), [(True, 7), (False, 1)], ids=["its own vote", "the next one"])
def test_nobody_votes_in_a_failover_that_was_ordered(book: SentinelBook, heard: bool, epoch: int) -> None:
    if heard:
        book.voted(S1, "id1", 7, 1.9)  # aborted ones have used up the epochs before
    told(book, replace(chooses(S1, B, 2.0), others=OTHERS[1:]))
    book.role(RoleReport(B, 2.2, "master"), 2.2)
    assert (book.view.master, book.view.epoch) == (B, epoch)
    told(book, *(says(s, B, 7, 3.0) for s in (S1, S2, S3)))
    assert (book.view.master, book.view.epoch, book.confirmed_since(B)) == (B, 7, 3.0)


def test_a_failover_that_was_given_up_leads_back(book: SentinelBook) -> None:
    told(book, chooses(S1, B, 2.0))
    book.role(RoleReport(B, 2.2, "master"), 2.2)
    assert book.view.master == B
    now = 3.0
    while book.view.master == B and now < 10:
        book.role(RoleReport(A, now, "master"), now)
        book.role(RoleReport(B, now, "slave"), now)  # the sentinels have made it a replica again
        told(book, *(says(s, A, 0, now) for s in (S2, S3)))
        now += 0.5
    assert (book.view.master, book.view.epoch) == (A, 0)


def late_majority(book: SentinelBook, start: float, end: float, role_of_b: str) -> None:
    now = start
    while now <= end:
        book.role(RoleReport(A, now, "master"), now)
        book.role(RoleReport(B, now, role_of_b), now)
        told(book, says(S2, A, 0, now), says(S3, A, 0, now))
        now += 0.5


def test_a_lower_epoch_needs_majority_role_and_time(book: SentinelBook) -> None:
    """The leader of a failover dies before it could tell: the others turn B into a replica of A again."""
    told(book, says(S1, B, 1, 2.0))
    book.heard(SentinelAnswer(S1, 3.0, error=ConnectionFailed("dead")), 3.0)
    late_majority(book, 3.0, 5.0, "slave")
    assert book.view.master == B
    late_majority(book, 5.5, 7.0, "slave")
    assert (book.view.master, book.view.epoch) == (A, 0)


def test_a_planned_failover_is_no_lower_epoch(book: SentinelBook) -> None:
    """For a while the majority and the old master agree on the old epoch; the new master is one as well."""
    told(book, says(S1, B, 1, 2.0))
    late_majority(book, 2.0, 7.5, "master")
    assert book.view.master == B


def test_time_in_which_nobody_was_asked_does_not_lower_the_epoch(book: SentinelBook) -> None:
    """The process is suspended during a planned failover: what it wakes with is from before."""
    told(book, says(S1, B, 1, 2.0), says(S2, A, 0, 2.0), says(S3, A, 0, 2.0))
    book.role(RoleReport(A, 2.1, "master"), 2.2)
    book.role(RoleReport(A, 2.3, "master"), 4.9)
    assert (book.view.master, book.view.epoch) == (B, 1), "asleep until 4.9"
    book.role(RoleReport(A, 4.9, "master"), 5.0)
    told(book, says(S2, A, 0, 4.6))
    assert book.view.master == B, "sent before the time was over"
    told(book, says(S2, A, 0, 4.9))
    assert book.view.master == B, "one of three is no majority"
    told(book, says(S3, A, 0, 5.0))
    assert (book.view.master, book.view.epoch) == (A, 0), "it has lasted: they were created anew"


def test_a_lower_epoch_without_role_is_never_taken(book: SentinelBook) -> None:
    told(book, says(S1, B, 1, 2.0))
    for now in range(3, 20):
        told(book, says(S2, A, 0, float(now)), says(S3, A, 0, float(now)))
    assert book.view.master == B


def test_a_role_from_before_the_lower_claim_is_no_proof(book: SentinelBook) -> None:
    told(book, says(S1, B, 1, 2.0))
    book.role(RoleReport(A, 1.5, "master"), 2.0)
    for now in range(3, 12):
        told(book, says(S2, A, 0, float(now)), says(S3, A, 0, float(now)))
    assert book.view.master == B


def test_a_lying_sentinel_with_a_high_epoch_is_dismissed_for_good(book: SentinelBook) -> None:
    told(book, says(S1, B, 99, 2.0))
    assert book.view.master == B
    now = 2.5
    while now < 12:
        book.role(RoleReport(A, now, "master"), now)
        book.role(RoleReport(B, now, "slave"), now)
        told(book, says(S1, B, 99, now), says(S2, A, 0, now), says(S3, A, 0, now))
        now += 0.5
    assert (book.view.master, book.view.epoch) == (A, 0)


def test_two_addresses_at_one_epoch_disagree_unless_role_tells() -> None:
    book = SentinelBook("shop", [S1, S2])
    two = {"known_sentinels": 2, "others": ()}
    told(book, says(S1, A, 0, **two), says(S2, B, 0, **two))
    assert book.view.master is None
    assert isinstance(book.view.problem, SentinelsDisagree)
    assert "s:1 says a:6379" in str(book.view.problem)
    book.role(RoleReport(B, 2.0, "master"), 2.0)
    told(book, says(S1, A, 0, 2.0, **two), says(S2, B, 0, 2.0, **two))
    assert book.view.master == B
    assert book.view.problem is None


def test_nobody_answers() -> None:
    book = SentinelBook("shop", [S1, S2])
    for s in (S1, S2):
        book.heard(SentinelAnswer(s, 1.0, error=AuthenticationFailed("WRONGPASS x")), 1.0)
    book.round_over(1.0)
    assert isinstance(book.view.problem, SentinelsUnreachable)
    assert "sentinel_password" in str(book.view.problem)
    assert "s:1" in str(book.view.problem)


def test_unreachable_sentinels_keep_the_last_master_and_one_view(book: SentinelBook) -> None:
    for now in (2.0, 3.0):
        for s in (S1, S2, S3):
            book.heard(SentinelAnswer(s, now, error=ConnectionFailed("refused")), now)
        book.round_over(now)
        view = book.view
    assert view.master == A
    assert isinstance(view.problem, SentinelsUnreachable)
    book.round_over(4.0)
    assert book.view is view, "the same trouble is no new view"
    told(book, says(S1, A, 0, 5.0))
    assert book.view.problem is None


def test_an_unknown_service() -> None:
    book = SentinelBook("shop", [S1, S2])
    book.heard(SentinelAnswer(S1, 1.0, error=ServiceUnknown("x")), 1.0)
    book.heard(SentinelAnswer(S2, 1.0, error=ConnectionFailed("x")), 1.0)
    book.round_over(1.0)
    assert isinstance(book.view.problem, ServiceUnknown)
    assert "'shop'" in str(book.view.problem)
    assert "s:1, s:2" in str(book.view.problem)


def test_sentinels_are_learned_once_and_configured_ones_stay() -> None:
    by_name = Address("sentinel.example", 1)
    book = SentinelBook("shop", [by_name])
    told(book, says(S2, A), replace(says(S1, A), sentinel=by_name))
    assert set(book.sentinels) == {by_name, S2, S3}, "S1 is by_name"
    assert book.majority == 2
    gone = replace(says(S2, A, sent=3.0), others=())
    for s in (by_name, S3):
        book.heard(SentinelAnswer(s, 3.0, error=ConnectionFailed("x")), 3.0)
    told(book, replace(says(S1, A, sent=3.0), sentinel=S2, ident="id2", others=()), gone)
    assert S3 not in book.sentinels or S3 in {o.address for a in book._answers.values() for o in a.others}
    assert by_name in book.sentinels


def test_discovered_replicas_are_in_the_view_until_the_master_changes(book: SentinelBook) -> None:
    new = Address("d", 6379)
    book.discovered([new, A])
    assert book.view.replicas == (B, C, new)
    told(book, says(S1, B, 1, 2.0))
    assert book.view.replicas == (A, C)


# -- rule 17: the strict confirmation


def test_confirmed_by_a_majority_of_all_known_from_the_time_of_sending(book: SentinelBook) -> None:
    assert book.confirmed_since(A) == 1.0
    assert book.confirmed_since(B) == -inf
    book.heard(says(S1, A, 0, 2.0), 2.1)
    assert book.confirmed_since(A) == 1.0, "one of three is no majority"
    book.heard(says(S2, A, 0, 2.5), 2.6)
    assert book.confirmed_since(A) == 2.0


def test_sentinels_that_never_answered_count_as_known() -> None:
    book = SentinelBook("shop", [S1, S2])
    told(book, says(S1, A, known_sentinels=5), says(S2, A, known_sentinels=5))
    assert book.majority == 3
    assert book.confirmed_since(A) == -inf


@pytest.mark.parametrize(
    "bad",
    [
        says(S3, A, 0, 2.0, flags=frozenset({"master", "failover_in_progress"})),
        says(S3, A, 0, 2.0, flags=frozenset({"master", "s_down", "o_down"})),
        says(S3, B, 0, 2.0),
    ],
    ids=["failover", "o_down", "dissent"],
)
def test_one_veto_stops_the_confirmation(book: SentinelBook, bad: SentinelAnswer) -> None:
    told(book, bad, says(S1, A, 0, 2.0), says(S2, A, 0, 2.0))
    assert book.confirmed_since(A) == 1.0
    told(book, says(S3, A, 0, 3.0), says(S1, A, 0, 3.0), says(S2, A, 0, 3.0))
    assert book.confirmed_since(A) == 3.0


def test_a_late_veto_takes_back_what_was_confirmed_meanwhile(book: SentinelBook) -> None:
    told(book, says(S1, A, 0, 2.0), says(S2, A, 0, 2.0))
    assert book.confirmed_since(A) == 2.0
    book.heard(says(S3, A, 0, 2.0, flags=frozenset({"failover_in_progress"})), 2.2)
    assert book.confirmed_since(A) == 1.0, "S3 was last clean at 1.0"


def test_the_right_address_of_an_old_epoch_confirms_nothing(book: SentinelBook) -> None:
    told(book, says(S1, A, 2, 2.0), says(S2, A, 0, 2.0), says(S3, A, 0, 2.0))
    assert (book.view.master, book.view.epoch) == (A, 2)
    assert book.confirmed_since(A) == 1.0


def test_the_veto_of_a_sentinel_that_fell_silent_ends(book: SentinelBook) -> None:
    told(book, says(S3, B, 0, 2.0), says(S1, A, 0, 2.0), says(S2, A, 0, 2.0))
    for now, expected in ((5.0, 1.0), (7.9, 1.0), (9.0, 9.0)):
        book.heard(SentinelAnswer(S3, now, error=ConnectionFailed("dead")), now)
        told(book, says(S1, A, 0, now), says(S2, A, 0, now))
        assert book.confirmed_since(A) == expected


def test_a_veto_that_ended_while_nobody_was_asked_stands_for_its_time(book: SentinelBook) -> None:
    """The process is suspended: what others said beside the veto is no truer when it wakes."""
    leads = frozenset({"master", "failover_in_progress"})
    told(book, says(S3, A, 0, 2.0, flags=leads), says(S1, A, 0, 2.0), says(S2, A, 0, 2.0))
    book.role(RoleReport(A, 9.0, "master"), 9.0)
    assert book.confirmed_since(A) == 1.0
    assert without(book, S3, says(S1, A, 0, 9.0), says(S2, A, 0, 9.0)) == 9.0


def without(book: SentinelBook, lost: Address, *answers: SentinelAnswer) -> float:
    """What is confirmed once one sentinel did not answer, and the others did."""
    book.heard(SentinelAnswer(lost, answers[0].sent, error=DEAD), answers[0].sent)
    told(book, *answers)
    return book.confirmed_since(A)


def test_a_voter_does_not_confirm_beside_a_leader_that_cannot_be_reached(book: SentinelBook) -> None:
    """Rule 17: S1 and S2 see nothing wrong, and S3 may have promoted another node by the vote of S2."""
    assert without(book, S3, says(S1, A, 0, 2.0), says(S2, A, 0, 2.0)) == 2.0
    book.voted(S2, "id3", 1, 2.5)
    for now in (3.0, 5.0, 8.4):
        assert without(book, S3, says(S1, A, 0, now), says(S2, A, 0, now)) == 2.0
    assert without(book, S3, says(S1, A, 0, 9.0), says(S2, A, 0, 9.0)) == 9.0, "nobody acts on it any more"


def test_a_vote_for_one_does_not_hide_the_vote_for_another(book: SentinelBook) -> None:
    book.voted(S2, "id3", 1, 1.5)
    book.voted(S2, "id1", 2, 1.6)
    assert without(book, S3, says(S1, A, 0, 2.0), says(S2, A, 0, 2.0)) == 1.0


def test_a_vote_does_no_harm_once_its_leader_says_that_nothing_is_under_way(book: SentinelBook) -> None:
    """A failover that was given up, or one of another service of the same sentinels."""
    book.voted(S2, "id3", 1, 1.5)
    told(book, *(says(s, A, 0, 2.0) for s in (S1, S2, S3)))
    assert book.confirmed_since(A) == 2.0
    assert without(book, S3, says(S1, A, 0, 3.0), says(S2, A, 0, 3.0)) == 3.0, "also when it is lost later"


def test_who_begins_while_a_sentinel_is_lost_waits_until_no_earlier_vote_counts() -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    for now, expected in ((10.0, -inf), (15.9, -inf), (16.1, 16.1)):
        book.heard(SentinelAnswer(S3, now, error=DEAD), now)
        told(book, *(says(s, A, 0, now, followed_since=10.0) for s in (S1, S2)))
        assert book.confirmed_since(A) == expected


@pytest.mark.parametrize(("silent", "expected"), [(8.4, -inf), (8.6, 10.0)])
def test_one_that_greets_nobody_for_long_got_no_vote(silent: float, expected: float) -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    others = {s: tuple(replace(o, silent_for=silent) for o in OTHERS if o.address != s) for s in (S1, S2)}
    book.heard(SentinelAnswer(S3, 10.0, error=DEAD), 10.0)
    told(book, *(says(s, A, 0, 10.0, followed_since=inf, others=others[s]) for s in (S1, S2)))
    assert book.confirmed_since(A) == expected


def test_sentinels_that_are_not_followed_confirm_only_together() -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    told(book, *(says(s, A, 0, 1.0, followed_since=inf) for s in (S1, S2, S3)))
    assert book.confirmed_since(A) == 1.0
    assert without(book, S3, *(says(s, A, 0, 2.0, followed_since=inf) for s in (S1, S2))) == 1.0


def test_followed_after_a_gap_one_that_answered_since_is_known_to_lead_nothing(book: SentinelBook) -> None:
    told(book, *(says(s, A, 0, 2.0, followed_since=1.9) for s in (S1, S2, S3)))
    assert without(book, S3, *(says(s, A, 0, 2.5, followed_since=1.9) for s in (S1, S2))) == 2.5
    assert without(book, S3, *(says(s, A, 0, 3.0, followed_since=2.8) for s in (S1, S2))) == 2.5


def test_a_data_node_that_is_master_elsewhere_vetoes(book: SentinelBook) -> None:
    book.role(RoleReport(B, 1.5, "slave"), 1.5)
    told(book, *(says(s, A, 0, 2.0) for s in (S1, S2, S3)))
    assert book.confirmed_since(A) == 2.0
    book.role(RoleReport(B, 2.1, "master"), 2.2)
    assert book.confirmed_since(A) == 1.5, "it was no master then"
    told(book, *(says(s, A, 0, 3.0) for s in (S1, S2, S3)))
    assert book.confirmed_since(A) == 1.5
    book.role(RoleReport(B, 3.5, ""), 3.6)  # died: the sentinels are the authority
    told(book, *(says(s, A, 0, 4.0) for s in (S1, S2, S3)))
    assert book.confirmed_since(A) == 4.0


def test_a_master_that_says_replica_is_not_confirmed(book: SentinelBook) -> None:
    book.role(RoleReport(A, 1.5, "slave"), 1.5)
    told(book, *(says(s, A, 0, 2.0) for s in (S1, S2, S3)))
    assert book.confirmed_since(A) == 1.0


def test_a_failover_starts_from_nothing(book: SentinelBook) -> None:
    told(book, says(S1, B, 1, 2.0), says(S2, A, 0, 2.0), says(S3, A, 0, 2.0))
    assert book.confirmed_since(B) == -inf
    assert book.confirmed_since(A) == -inf
    told(book, *(says(s, B, 1, 3.0) for s in (S1, S2, S3)))
    assert book.confirmed_since(B) == 3.0


@given(
    st.lists(st.tuples(st.sampled_from([S1, S2, S3]), st.sampled_from([A, B, C]), st.integers(0, 4)), max_size=40)
)
def test_without_role_the_epoch_never_goes_down(steps: list[tuple[Address, Address, int]]) -> None:
    book = SentinelBook("shop", [S1, S2, S3])
    for now, (sentinel, master, epoch) in enumerate(steps, start=1):
        before = book.view
        told(book, says(sentinel, master, epoch, float(now)))
        assert book.view.epoch >= before.epoch
        if book.view.master is not None:
            assert book.view.master not in book.view.replicas
