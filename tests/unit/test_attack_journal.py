"""Schedules against the journal and the state: what was acknowledged or queued must never get lost."""

from __future__ import annotations

import random
import time

from evercache.engine.flights import Outcome, Owner
from evercache.engine.state import State
from evercache.policy import Settings
from evercache.protocol.envelope import Envelope
from evercache.protocol.journal import Journal
from evercache.protocol.replies import LogLine, ResyncReply
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

ME = Owner()
KEY = Subject("ns:app.f1", "app.f")
OLD, NEW = "a" * 40, "b" * 40


def new_state() -> State:
    return State(Settings(), time.monotonic, random.Random(1))


def resync(state: State, *generations: tuple[str, int]) -> None:
    reply = ResyncReply("ok", 0, generations[-1][0], tip=5, gens=generations, last="0-0", life="x")
    state.resynced(reply, "run", (), state.now())


def envelope(stamp: int, tags: tuple[bytes, ...] = ()) -> Envelope:
    return Envelope(1, 0, stamp, 0, 0, bytes(8), 0.0, 1, tags, b"x")


def test_rule_3_an_acknowledgement_read_after_the_failover_is_not_taken_for_safe() -> None:
    """The old master answered; before the caller's thread ran again, the new one, which lacks it, was learnt."""
    state = new_state()
    resync(state, (OLD, 0))
    item = state.begin(Scope.of_key(KEY.key))
    state.unready()
    resync(state, (OLD, 0), (NEW, 5))
    state.acknowledged(item, 9, OLD)
    assert state.journal.covers(KEY), "the new master began at 5 and never had the mark 9"
    (again,) = state.journal.pending.values()
    assert again.id == item.id
    assert again.due is not None


def test_rule_3_an_acknowledgement_that_the_new_master_has_is_safe() -> None:
    state = new_state()
    resync(state, (OLD, 0))
    item = state.begin(Scope.of_key(KEY.key))
    state.unready()
    resync(state, (OLD, 0), (NEW, 12))
    state.acknowledged(item, 9, OLD)
    assert not state.journal.pending
    assert len(state.journal) == 1


def test_rule_4_a_key_merged_into_a_function_that_was_perhaps_sent_is_still_issued() -> None:
    """The function's own invalidation may have been obeyed before the key's began: its id would do nothing."""
    journal = Journal(pending_limit=2)
    function = journal.begin("0" * 16, Scope.of_function("app.f"))
    journal.given_up(function, 1.0)
    for number in range(4):
        journal.given_up(journal.begin(f"{number + 1:016x}", Scope.of_key(f"ns:app.f{number}"), "app.f"), 2.0)
    fresh = [i for i in journal.pending.values() if i.scope == function.scope and i.id != function.id]
    assert fresh or EVERYTHING in {i.scope for i in journal.pending.values()}
    assert journal.covers(KEY)


def test_rule_4_a_pending_tag_covers_what_an_envelope_says_of_its_tags() -> None:
    journal = Journal()
    journal.given_up(journal.begin("1" * 16, Scope.of_tag("x")), 1.0)
    assert not journal.covers(KEY)
    assert journal.covers(KEY, (tag_hash("x"),))
    assert not journal.covers(KEY, (tag_hash("y"),))


def test_rule_5_while_suspended_what_was_recorded_covers_the_envelope_s_tags() -> None:
    journal = Journal()
    journal.acknowledged(journal.begin("1" * 16, Scope.of_tag("x")), 4, OLD, 1.0)
    journal.suspended = True
    assert not journal.covers(KEY)
    assert journal.covers(KEY, (tag_hash("x"),))


def test_rules_4_and_16_no_joiner_takes_a_value_whose_own_tag_is_pending() -> None:
    state = new_state()
    resync(state, (OLD, 0))
    state.given_up(state.begin(Scope.of_tag("x")))
    outcome = Outcome(10, "computed", envelope(10, (tag_hash("x"),)))
    assert not state.acceptable(outcome, KEY, 0)
    assert state.acceptable(Outcome(10, "computed", envelope(10)), KEY, 0)


def test_rule_4_a_write_cancels_only_what_was_given_up_before_it_began() -> None:
    journal = Journal()
    delete = journal.begin("1" * 16, Scope.of_key("k"))
    write = journal.begin("2" * 16, Scope.of_key("k"))
    journal.given_up(delete, 1.0)  # after the write began: nobody knows which of the two is the later one
    journal.acknowledged(write, 9, OLD, 2.0)
    journal.cancel_key("k", write.sequence)
    assert set(journal.pending) == {delete.id}
    later = journal.begin("3" * 16, Scope.of_key("k"))
    journal.cancel_key("k", later.sequence)
    assert set(journal.pending) == {later.id}


def test_a_thousand_pending_cost_a_read_no_more_than_a_few() -> None:
    def cost(count: int) -> float:
        journal = Journal(pending_limit=10_000)
        for number in range(count):
            journal.given_up(journal.begin(f"{number:016x}", Scope.of_key(f"other{number}")), 1.0)
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(50):
                assert not journal.covers(KEY)
                assert not journal.covering(KEY)
            best = min(best, time.perf_counter() - began)
        return best

    assert cost(2_000) < 10 * cost(2)


def test_the_index_of_the_pending_follows_every_way_in_and_out() -> None:
    """Random histories: what `covers` says is what a walk over all of them says."""
    rng = random.Random(3)
    subjects = [Subject(f"k{i}", f"f{i % 2}", (tag_hash(f"t{i % 3}"),)) for i in range(4)]
    scopes = [Scope.of_key("k1"), Scope.of_key("k2"), Scope.of_function("f0"), Scope.of_tag("t1"), EVERYTHING]
    for _ in range(60):
        journal = Journal(limit=8, pending_limit=4)
        live = []
        for step in range(40):
            match rng.randrange(6):
                case 0 | 1:
                    scope = rng.choice(scopes)
                    function = "f1" if scope == Scope.of_key("k1") else ""
                    live.append(journal.begin(f"{step:016x}", scope, function))
                case 2 if live:
                    journal.given_up(rng.choice(live), float(step))
                case 3 if live:
                    journal.acknowledged(live.pop(rng.randrange(len(live))), step, OLD, float(step))
                case 4 if live:
                    journal.withdrawn(live.pop(rng.randrange(len(live))))
                case 5:
                    journal.resynced(
                        rng.choice([((OLD, 0),), ((OLD, 0), (NEW, step // 2))]), step, lambda: 0.1, lambda: "e" * 16
                    )
            after = rng.randrange(-1, journal.sequence + 1)
            for subject in subjects:
                walk = [i for i in journal.pending.values() if i.scope.covers(subject)]
                assert journal.covers(subject) is bool(walk)
                assert journal.covers(subject, after=after) is any(i.sequence > after for i in walk)
                assert journal.covering(subject) == sorted(walk, key=lambda i: i.sequence)


def test_rule_6_a_line_of_the_log_detaches_the_flight_that_it_dooms() -> None:
    state = new_state()
    resync(state, (OLD, 0))
    doomed, leads = state.join_or_lead(KEY, 0, ME, joinable=True)
    assert leads
    state.hear_line(LogLine("1-0", 1, "k", KEY.key, 9, "1" * 16, OLD, "0-0"))
    flight, leads = state.join_or_lead(KEY, 9, ME, joinable=True)
    assert leads, "to wait for what began before the mark would be to wait for nothing"
    state.hear_line(LogLine("2-0", 1, "k", KEY.key, 9, "1" * 16, OLD, "1-0"))
    assert state.join_or_lead(KEY, 9, ME, joinable=True) == (flight, False), "it began after the mark"
    state.landed(doomed, None)
    assert state.join_or_lead(KEY, 9, ME, joinable=True) == (flight, False)


def test_100_000_invalidations_leave_a_bounded_memory() -> None:
    state = new_state()
    resync(state, (OLD, 0))
    for number in range(100_000):
        item = state.begin(Scope.of_key(f"k{number}"))
        state.acknowledged(item, number + 10, OLD)
    assert len(state.journal) <= 20_000
    assert not state.journal.pending
    assert len(state.marks.keys) <= 100_000
    assert state.journal.forgotten[OLD] >= 80_000
