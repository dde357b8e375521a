"""The journal of invalidations: rules 3, 4, 5 and 20, each by its name."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from tests.unit.steps import before_each_step, interrupted

from evercache.protocol.journal import Journal, is_lost
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

KEY = Scope.of_key("ns:1")
ONE = Subject("ns:1", "app.f", (tag_hash("a"),))
OTHER = Subject("ns:2", "app.g", (tag_hash("b"),))
SCOPES = [KEY, Scope.of_function("app.f"), Scope.of_tag("a"), EVERYTHING]


def resync(
    journal: Journal, *generations: tuple[str, int], now: float = 50.0, jitter: float = 0.1, tip: int = 0
) -> int:
    ids = (f"new{n}" for n in itertools.count())
    return journal.resynced(generations, now, lambda: jitter, lambda: next(ids), tip)


def hear(journal: Journal, id: str, scope: Scope = KEY, stamp: int = 10, gen: str = "g1", now: float = 0) -> None:
    journal.heard(id, scope, stamp, gen, now)


def acked(journal: Journal, id: str, scope: Scope = KEY, stamp: int = 10, gen: str = "g1", now: float = 0) -> None:
    journal.acknowledged(journal.begin(id, scope), stamp, gen, now)


# -- rule 3: what is lost


@pytest.mark.parametrize(
    ("generations", "lost"),
    [
        ([("g1", 0)], False),  # the current one
        ([("g1", 0), ("g2", 9)], True),  # g2 began before the stamp: it lacks it
        ([("g1", 0), ("g2", 10)], False),  # g2 had it when it began
        ([("g1", 0), ("g2", 10), ("g3", 5)], False),  # only the next one counts
        ([("g0", 0), ("g1", 3), ("g2", 9)], True),
        ([("g2", 99)], True),  # unknown
        ([], True),
    ],
)
def test_rule_3_lost_is_what_the_generation_after_lacks(generations: list[tuple[str, int]], lost: bool) -> None:
    assert is_lost("g1", 10, generations) is lost


def test_rule_3_lost_ones_become_pending_and_others_do_not() -> None:
    journal = Journal()
    acked(journal, "kept", Scope.of_key("ns:2"), stamp=9)
    acked(journal, "lost", stamp=11)
    acked(journal, "new", stamp=12, gen="g2")
    assert resync(journal, ("g1", 0), ("g2", 10)) == 1
    assert set(journal.pending) == {"lost"}
    assert len(journal) == 2
    assert resync(journal, ("g1", 0), ("g2", 10)) == 0


def test_rule_3_the_newest_of_a_scope_stands_for_the_earlier_ones() -> None:
    journal = Journal()
    for n in range(5):
        hear(journal, f"x{n}", stamp=10 + n)
    hear(journal, "late", stamp=3)  # its own reply, after the line of a later one
    hear(journal, "other generation", stamp=2, gen="g0")
    assert len(journal) == 2
    assert resync(journal, ("g0", 0), ("g1", 2), ("g2", 12)) == 1
    assert set(journal.pending) == {"x4"}
    assert len(journal) == 1


def test_rule_3_what_a_former_master_says_late_is_judged_at_once() -> None:
    journal = Journal()
    hear(journal, "x", stamp=10)
    resync(journal, ("g1", 0), ("g2", 12))
    tell = journal.heard_late
    assert not tell("x", KEY, 10, "g1", 60.0, 60.1), "known already"
    assert not tell("y", Scope.of_key("ns:2"), 11, "g1", 60.0, 60.1), "the present master has it"
    assert tell("z", KEY, 13, "g1", 60.0, 60.1)
    assert not tell("z", KEY, 13, "g1", 60.0, 60.1), "it is pending already"
    assert set(journal.pending) == {"z"}
    assert [item.due for item in journal.pending.values()] == [60.1]


def test_rule_3_what_a_former_master_says_during_a_resync_is_judged_by_it() -> None:
    journal = Journal()
    journal.suspended = True
    assert not journal.heard_late("x", KEY, 13, "g1", 60.0, 60.1)
    assert resync(journal, ("g1", 0), ("g2", 12)) == 1


def test_rule_3_own_ones_are_sent_at_once_and_heard_ones_after_jitter() -> None:
    journal = Journal()
    acked(journal, "own")
    hear(journal, "heard", Scope.of_key("ns:2"))
    assert resync(journal, ("g2", 0), now=50.0, jitter=0.1) == 2
    assert [item.id for item in journal.due(50.0)] == ["own"]
    assert [item.id for item in journal.due(50.1)] == ["own", "heard"]
    assert all(item.replay for item in journal.pending.values())


def test_rule_3_what_somebody_else_issued_again_is_not_sent() -> None:
    journal = Journal()
    hear(journal, "x")
    resync(journal, ("g2", 0))
    assert journal.covers(ONE)
    hear(journal, "x", stamp=20, gen="g2")
    assert not journal.pending
    assert not journal.covers(ONE)
    assert resync(journal, ("g2", 0)) == 0  # it is of the present generation now
    assert resync(journal, ("g2", 0), ("g3", 19)) == 1


def test_rule_3_the_newer_line_of_an_id_is_the_one_to_watch() -> None:
    journal = Journal()
    hear(journal, "x", stamp=10, gen="g1")
    hear(journal, "x", stamp=20, gen="g2")
    hear(journal, "x", stamp=10, gen="g1")
    assert len(journal) == 1
    assert resync(journal, ("g1", 0), ("g2", 5), ("g3", 20)) == 0
    assert resync(journal, ("g1", 0), ("g2", 5), ("g3", 19)) == 1


def test_rule_3_an_own_one_heard_again_stays_an_own_one() -> None:
    journal = Journal()
    acked(journal, "x", stamp=10)
    hear(journal, "x", stamp=20, gen="g2")
    resync(journal, ("g3", 0), now=50.0, jitter=9.0)
    assert [item.id for item in journal.due(50.0)] == ["x"]


def test_rule_3_the_id_of_a_replay_is_the_old_one() -> None:
    journal = Journal()
    acked(journal, "x", EVERYTHING)
    resync(journal, ("g2", 0))
    assert journal.pending["x"].scope == EVERYTHING


# -- rule 4: pending is an infinite mark


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_4_pending_covers_from_the_beginning_to_the_acknowledgement(scope: Scope) -> None:
    journal = Journal()
    item = journal.begin("x", scope)
    assert journal.covers(ONE)
    assert journal.covers(OTHER) is (scope == EVERYTHING)
    assert journal.covering(ONE) == [item]
    journal.given_up(item, 1.0)
    assert journal.covers(ONE)
    journal.acknowledged(item, 10, "g1", 2.0)
    assert not journal.covers(ONE)
    assert not journal.pending
    assert len(journal) == 1


def test_rule_4_it_outdates_computations_that_began_before_it() -> None:
    journal = Journal()
    before = journal.sequence
    journal.begin("x", KEY)
    assert journal.covers(ONE, after=before)
    assert not journal.covers(ONE, after=journal.sequence)


def test_rule_4_it_is_tried_again_from_when_it_was_given_up() -> None:
    journal = Journal()
    item = journal.begin("x", KEY)
    assert not journal.due(99.0)  # its caller is still sending it
    journal.given_up(item, 5.0)
    assert not journal.due(4.9)
    assert journal.due(5.0) == [item]


def test_rule_4_who_waits_for_the_attempt_is_woken_either_way() -> None:
    journal = Journal()
    item = journal.begin("x", KEY)
    first = item.settled
    assert not first.done
    journal.given_up(item, 0.0)
    assert first.done
    assert not item.settled.done
    journal.acknowledged(item, 1, "g1", 0.0)
    assert item.settled.done
    other = journal.begin("y", KEY)
    journal.withdrawn(other)
    assert other.settled.done
    assert not journal.pending


def test_rule_4_one_given_up_that_is_heard_after_all_is_acknowledged() -> None:
    journal = Journal()
    item = journal.begin("x", KEY)
    journal.given_up(item, 0.0)
    hear(journal, "x", stamp=10)
    assert not journal.pending
    assert item.settled.done
    assert len(journal) == 1


def test_rule_4_one_under_way_that_is_heard_waits_for_its_reply() -> None:
    journal = Journal()
    item = journal.begin("x", KEY)
    hear(journal, "x", stamp=10)
    assert journal.pending == {"x": item}
    journal.acknowledged(item, 10, "g1", 0.0)
    assert len(journal) == 1
    # Counted once: when it is safe to forget, nothing of it is left behind.
    journal.prune(601.0, keep=600.0)
    assert len(journal) == 0
    journal.suspended = True
    assert not journal.covers(ONE)


def test_rule_4_an_acknowledged_write_cancels_own_earlier_ones_of_its_key() -> None:
    journal = Journal()
    given_up = journal.begin("given up", KEY)
    under_way = journal.begin("under way", KEY)
    function = journal.begin("function", Scope.of_function("app.f"))
    other = journal.begin("other", Scope.of_key("ns:2"))
    for item in (given_up, function, other):
        journal.given_up(item, 0.0)
    write = journal.begin("write", KEY)
    later = journal.begin("later", KEY)
    journal.given_up(later, 0.0)
    journal.cancel_key("ns:1", write.sequence)
    assert set(journal.pending) == {"under way", "function", "other", "write", "later"}
    assert given_up.settled.done
    assert not under_way.settled.done


def test_rule_4_a_write_cancels_nothing_that_was_given_up_after_it_began() -> None:
    journal = Journal()
    earlier = journal.begin("earlier", KEY)
    write = journal.begin("write", KEY)
    journal.given_up(earlier, 0.0)
    journal.cancel_key("ns:1", write.sequence)
    assert "earlier" in journal.pending


def test_rule_16_what_is_pending_covers_by_the_tags_of_the_envelope_as_well() -> None:
    journal = Journal()
    item = journal.begin("x", Scope.of_tag("b"))
    assert not journal.covers(ONE)
    assert journal.covers(ONE, [tag_hash("b")])
    journal.acknowledged(item, 10, "g1", 0.0)
    assert not journal.covers(ONE, [tag_hash("b")])
    journal.suspended = True
    assert journal.covers(ONE, [tag_hash("b")])
    assert not journal.covers(ONE)


def test_rule_4_a_write_cancels_no_replay_and_nothing_of_others() -> None:
    journal = Journal()
    acked(journal, "own")
    hear(journal, "heard", gen="g0")
    resync(journal, ("g2", 0))
    journal.cancel_key("ns:1", 99)
    assert set(journal.pending) == {"own", "heard"}
    journal.pending["heard"].replay = False
    journal.cancel_key("ns:1", 99)
    assert set(journal.pending) == {"own", "heard"}


def fill(journal: Journal, count: int, function: str = "") -> None:
    for n in range(count):
        item = journal.begin(
            f"{len(function)}{journal.sequence:013x}00", Scope.of_key(f"ns:{function}{n}"), function
        )
        journal.given_up(item, 7.0)


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_4_a_later_one_of_the_scope_takes_the_place_of_those_that_wait(scope: Scope) -> None:
    journal = Journal()
    under_way = journal.begin("0", scope)
    first = journal.begin("1", scope)
    journal.given_up(first, 1.0)
    before = journal.sequence
    other = journal.begin("2", Scope.of_key("other"))
    journal.given_up(other, 1.0)
    second = journal.begin("3", scope)
    assert set(journal.pending) == {"0", "1", "2", "3"}, "it may yet be refused"
    settled = first.settled
    journal.given_up(second, 2.0)
    assert set(journal.pending) == {"0", "2", "3"}
    assert settled.done, "who waited for it goes on"
    assert journal.covers(ONE, after=before)
    journal.acknowledged(second, 500, "g", 3.0)
    assert list(journal.pending.values()) == [under_way, other]


def test_rule_4_what_is_issued_again_keeps_its_id_and_its_place() -> None:
    """Others know it by that id, and need not issue it as well."""
    journal = Journal()
    journal.acknowledged(journal.begin("1", KEY), 500, "g", 1.0)
    assert journal.resynced([("h", 0)], 2.0, lambda: 0.0, lambda: "x") == 1
    journal.given_up(journal.begin("2", KEY), 3.0)
    assert set(journal.pending) == {"1", "2"}


def test_rule_4_past_the_bound_keys_merge_into_their_functions() -> None:
    journal = Journal(pending_limit=3)
    fill(journal, 3, "app.f")
    assert len(journal.pending) == 3
    fill(journal, 1, "app.g")
    assert {item.scope for item in journal.pending.values()} == {
        Scope.of_function("app.f"),
        Scope.of_function("app.g"),
    }
    assert journal.covers(ONE)
    assert journal.covers(Subject("ns:app.f0", "app.f"))
    assert len(journal.due(7.0)) == 2
    assert len(set(journal.pending)) == 2


def test_rule_4_past_the_bound_again_all_merge_into_everything() -> None:
    journal = Journal(pending_limit=3)
    fill(journal, 4)  # keys that the user named have no function
    assert [item.scope for item in journal.pending.values()] == [EVERYTHING]
    assert journal.covers(OTHER)


def test_rule_4_what_merges_again_gets_an_id_that_the_master_has_not_seen() -> None:
    journal = Journal(pending_limit=3)
    fill(journal, 4)
    (first,) = journal.pending  # it may have been sent, and obeyed, though no answer came
    fill(journal, 3)
    assert [item.scope for item in journal.pending.values()] == [EVERYTHING]
    assert first not in journal.pending


def test_rule_4_merging_leaves_alone_what_is_being_sent() -> None:
    journal = Journal(pending_limit=3)
    under_way = journal.begin("x", KEY, "app.f")
    fill(journal, 3)
    assert journal.pending["x"] is under_way
    assert EVERYTHING in {item.scope for item in journal.pending.values()}


def test_rule_4_the_merged_outdate_what_began_before_the_merging() -> None:
    journal = Journal(pending_limit=3)
    fill(journal, 3)
    before = journal.sequence
    fill(journal, 1, "app.g")
    assert journal.covers(OTHER, after=before)


@pytest.mark.parametrize("function", ["", "app.f"], ids=["into everything", "into the function"])
def test_rule_4_the_merged_outdate_at_every_step_of_the_merging(function: str) -> None:
    """Readers take no lock."""

    def before() -> Journal:
        journal = Journal(pending_limit=3)
        journal.given_up(journal.begin("one", KEY, function), 5.0)
        fill(journal, 2, function)
        return journal

    def merge(journal: Journal) -> None:
        journal.given_up(journal.begin("more", Scope.of_key("ns:more"), function), 6.0)
        assert "one" not in journal.pending

    def make() -> tuple[Callable[[], bool], Callable[[], None]]:
        journal = before()
        return lambda: journal.covers(ONE), lambda: merge(journal)

    assert all(interrupted(make))
    journal, found = before(), list[bool]()
    before_each_step(lambda: merge(journal), lambda: found.append(journal.covers(ONE)))
    assert all(found)


# -- rule 5: until the resync all that was recorded counts as pending


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_5_suspended_the_recorded_cover(scope: Scope) -> None:
    journal = Journal()
    hear(journal, "x", scope)
    assert not journal.covers(ONE)
    journal.suspended = True
    assert journal.covers(ONE)
    assert journal.covers(OTHER) is (scope == EVERYTHING)
    resync(journal, ("g1", 0))
    assert not journal.suspended
    assert not journal.covers(ONE)


@pytest.mark.parametrize("late", [False, True])
def test_rule_5_suspended_the_recorded_do_not_outdate_what_is_computed_here_after_them(late: bool) -> None:
    journal = Journal()
    acked(journal, "x")
    journal.suspended = True
    before = journal.sequence
    assert journal.covers(ONE)
    assert not journal.covers(ONE, after=before)
    if late:
        assert not journal.heard_late("y", KEY, 11, "g1", 1.0, 2.0)
    else:
        hear(journal, "y", stamp=11)
    assert journal.covers(ONE, after=before)
    assert not journal.covers(OTHER, after=before)
    assert not journal.covers(ONE, after=journal.sequence)


def test_rule_5_kinds_of_a_later_version_cover_everything() -> None:
    journal = Journal()
    hear(journal, "x", Scope("zone", "eu"))
    journal.suspended = True
    assert journal.covers(OTHER)
    journal.prune(601.0, keep=600.0)
    assert not journal.covers(OTHER)


def test_rule_5_two_of_one_scope_cover_until_both_are_forgotten() -> None:
    journal = Journal()
    hear(journal, "x", now=1.0)
    hear(journal, "y", now=3.0)
    journal.suspended = True
    journal.prune(602.0, keep=600.0)
    assert len(journal) == 1
    assert journal.covers(ONE)
    journal.prune(604.0, keep=600.0)
    assert not journal.covers(ONE)


# -- rule 20: how long


def test_rule_20_it_is_kept_for_its_time_and_then_leaves_its_generation_and_stamp() -> None:
    journal = Journal()
    hear(journal, "x", now=5.0)
    journal.prune(605.0, keep=600.0)
    assert len(journal) == 1
    journal.prune(605.1, keep=600.0)
    assert len(journal) == 0
    assert journal.forgotten == {"g1": 10}


def test_rule_20_dropped_by_age_it_leaves_its_generation_and_stamp() -> None:
    journal = Journal()
    hear(journal, "x", stamp=10, now=0.0)
    hear(journal, "y", stamp=12, now=1.0)
    hear(journal, "z", stamp=99, gen="g2", now=2.0)
    journal.prune(601.5, keep=600.0)
    assert journal.forgotten == {"g1": 12}
    assert len(journal) == 1


def test_rule_20_dropped_by_number_it_leaves_its_generation_and_stamp() -> None:
    journal = Journal(limit=2)
    for n in range(3):
        hear(journal, f"x{n}", Scope.of_key(f"ns:{n}"), stamp=10 + n)
    assert len(journal) == 2
    assert journal.forgotten == {"g1": 10}


def test_rule_20_only_when_such_a_one_is_lost_everything_is_invalidated_and_once() -> None:
    journal = Journal(limit=1)
    hear(journal, "x", stamp=10)
    hear(journal, "y", Scope.of_key("ns:2"), stamp=11)
    resync(journal, ("g1", 0), ("g2", 11))
    assert not journal.pending
    assert journal.forgotten == {"g1": 10}
    resync(journal, ("g1", 0), ("g2", 9), now=50.0)
    scopes = [item.scope for item in journal.pending.values()]
    assert scopes.count(EVERYTHING) == 1
    everything = next(item for item in journal.pending.values() if item.scope == EVERYTHING)
    assert everything.id == "new0"
    assert everything in journal.due(50.0)
    for item in list(journal.pending.values()):
        journal.acknowledged(item, 20, "g2", 51.0)
    # The next resync (a broken connection, say) does not do it again.
    resync(journal, ("g1", 0), ("g2", 9))
    assert not journal.pending


def test_rule_20_an_unknown_generation_is_lost_and_then_forgotten() -> None:
    journal = Journal(limit=1)
    hear(journal, "x", stamp=10)
    hear(journal, "y", stamp=11, gen="g2")
    resync(journal, ("g2", 99))
    assert [item.scope for item in journal.pending.values()] == [EVERYTHING]
    assert journal.forgotten == {}


def everything(journal: Journal) -> bool:
    """Whether it invalidates everything, once."""
    found = [item.scope for item in journal.pending.values()] == [EVERYTHING]
    journal.pending.clear()
    return found


def test_rule_20_what_was_forgotten_is_noticed_to_be_lost_however_long_ago_it_was() -> None:
    """Replicas had it, so the journal dropped it; then a backup from before was restored on all nodes."""
    journal = Journal()
    resync(journal, ("g1", 0), now=0.0)
    hear(journal, "x", stamp=10, now=1.0)
    journal.prune(700.0, keep=600.0)
    resync(journal, ("g1", 0), ("g2", 10), now=700.0)
    assert not journal.pending, "an ordinary failover"
    resync(journal, ("g1", 0), ("g3", 9), now=800.0)
    assert everything(journal)
    resync(journal, ("g1", 0), ("g3", 9), now=900.0)
    assert not journal.pending


def test_rule_20_a_process_may_not_have_heard_what_came_before_its_resync() -> None:
    journal = Journal()
    resync(journal, ("g1", 0), now=0.0, tip=10)
    resync(journal, ("g1", 0), now=300.0, tip=20)
    # Whatever a failover may lose now, others heard, and issue again.
    resync(journal, ("g1", 0), ("g2", 19), now=500.0, tip=40)
    assert not journal.pending
    journal.prune(600.0, keep=600.0)
    assert not journal.forgotten
    journal.prune(600.1, keep=600.0)
    assert journal.forgotten == {"g1": 10}
    journal.prune(1100.1, keep=600.0)
    assert journal.forgotten == {"g1": 10, "g2": 40}
    resync(journal, ("g1", 0), ("g3", 19), now=1200.0, tip=50)
    assert everything(journal)


def test_rule_20_where_nothing_was_ever_invalidated_nothing_is_lost() -> None:
    journal = Journal()
    resync(journal, now=0.0)
    resync(journal, ("g1", 0), now=1.0)
    journal.prune(700.0, keep=600.0)
    resync(journal, now=700.0)
    assert not journal.pending


def test_rule_20_a_master_that_names_32_generations_makes_nobody_believe_in_a_loss() -> None:
    journal = Journal()
    hear(journal, "x", stamp=10)
    journal.prune(700.0, keep=600.0)
    history = [("g1", 0)]
    for number in range(2, 100):
        history.append((f"g{number}", 10 * number))
        if number % 15 == 0:
            resync(journal, *history[-32:], now=700.0 + number)
            assert not journal.pending
            assert len(journal.forgotten) == 1
    resync(journal, *history[-32:-10], ("old", 10), now=900.0)
    assert not journal.pending, "what it forgot is much older than that"
    resync(journal, ("g1", 0), ("old", 9), now=900.0)
    assert everything(journal)


def test_rule_20_of_what_the_present_master_has_the_last_of_each_scope_is_kept() -> None:
    def journal() -> Journal:
        made = Journal()
        acked(made, "second", stamp=12, gen="g2")
        acked(made, "first", stamp=9)  # heard late
        acked(made, "another", Scope.of_key("ns:2"), stamp=8)
        acked(made, "third", stamp=20, gen="g3")
        assert resync(made, ("g1", 0), ("g2", 10), ("g3", 15)) == 0
        return made

    whole = journal()
    assert repr(whole) == "<Journal recorded=2 pending=0>"
    whole.suspended = True
    assert whole.covers(ONE), "it counts until the resync is done"
    # A replica that lacks the third takes over; or a master is back from a file that lacks the second as well.
    for after in ([("g1", 0), ("g2", 10), ("g3", 15), ("g4", 18)], [("g1", 0), ("g4", 11)]):
        later = journal()
        assert resync(later, *after) == 1
        assert set(later.pending) == {"third"}
        assert len(later) == 1
    assert resync(journal(), ("g4", 0)) == 2, "neither is known there"


def test_rule_20_a_fresh_process_has_none() -> None:
    journal = Journal()
    assert resync(journal, ("g7", 1000)) == 0
    assert not journal.pending
    assert repr(journal) == "<Journal recorded=0 pending=0>"
