"""What a process knows and has under way: rules 4, 5, 6, 8 and 14, and the flights."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from evercache.engine.flights import Flights, Outcome, Owner
from evercache.engine.state import State
from evercache.policy import Settings
from evercache.protocol.envelope import Envelope, pack, unpack
from evercache.protocol.replies import KnownMarks, LogLine, ResyncReply
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash

KEY = Scope.of_key("ns:1")
ONE = Subject("ns:1", "app.f", (tag_hash("a"),))
SCOPES = [KEY, Scope.of_function("app.f"), Scope.of_tag("a"), EVERYTHING]
ME = Owner()
OTHERS = [Scope.of_key("ns:2"), Scope.of_function("app.g"), Scope.of_tag("b")]


class Now:
    time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def state(now: Now) -> State:
    state = State(Settings(), now, random.Random(1))
    resync(state)
    state.clock.observe(1_000_000_000, now.time)
    return state


def resync(state: State, **changes: Any) -> int:
    reply = ResyncReply("ok", 0, "g1", tip=0, gens=(("g1", 0),), life="l1")
    return state.resynced(replace(reply, **changes), "run", [], state.now())


def line(scope: Scope, stamp: int, id: str = "x", generation: str = "g1") -> LogLine:
    fields = {"id": id, "kind": scope.kind, "name": scope.name, "stamp": stamp, "generation": generation}
    return LogLine(**fields, log_id="1-1", previous="0-0", version=1)  # type: ignore[arg-type]


def envelope(stamp: int, soft_s: float = 1100.0, tags: tuple[bytes, ...] = ()) -> Envelope:
    """An entry of the master whose time is 1,000 s when ours is 100 s."""
    return unpack(pack(payload=b"x", stamp=stamp, soft_ms=int(soft_s * 1000), tags=tags))


def near(state: State) -> bool:
    return state.near.get("ns:1", state.now()) is not None


def put(state: State, stamp: int = 0, seconds: float = 5.0, **more: Any) -> bool:
    resyncs, obeyed = more.get("resyncs", state.resyncs), more.get("obeyed", state.marks.horizon)
    state.put_near(ONE, more.get("entry", envelope(stamp)), seconds, resyncs, obeyed)
    return near(state)


# -- rule 6: what a joiner accepts


def test_rule_6_a_joiner_accepts_what_it_needs_and_nothing_older(state: State) -> None:
    assert state.acceptable(Outcome(5, "computed"), ONE, need=5)
    assert not state.acceptable(Outcome(4, "computed"), ONE, need=5)


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_6_a_mark_heard_meanwhile_counts(state: State, scope: Scope) -> None:
    state.hear_line(line(scope, 10))
    assert not state.acceptable(Outcome(9, "computed"), ONE, need=0)
    assert state.acceptable(Outcome(10, "computed"), ONE, need=0)


def test_rule_6_the_tags_of_the_outcome_count(state: State) -> None:
    state.hear_line(line(Scope.of_tag("b"), 10))
    assert state.acceptable(Outcome(9, "computed", envelope(9)), ONE, need=0)
    assert not state.acceptable(Outcome(9, "computed", envelope(9, tags=(tag_hash("b"),))), ONE, need=0)


@pytest.mark.parametrize("name", ["horizon", "tag_floor", "key_floor"])
def test_rule_6_horizon_and_floors_count_for_joiners(state: State, name: str) -> None:
    setattr(state.marks, name, 10)
    assert not state.acceptable(Outcome(9, "computed"), ONE, need=0)
    assert state.acceptable(Outcome(10, "computed"), ONE, need=0)


def test_rule_6_a_resync_sets_the_horizon_at_the_tip(state: State) -> None:
    resync(state, tip=10)
    assert not state.acceptable(Outcome(9, "computed"), ONE, need=0)
    resync(state, tip=7)
    assert state.marks.horizon == 10


def test_rule_6_a_pending_invalidation_outdates_what_servers_and_leases_say(state: State) -> None:
    state.begin(KEY)
    assert not state.acceptable(Outcome(99, "computed"), ONE, need=0)


def test_rule_6_what_began_after_a_pending_invalidation_may_be_shared(state: State) -> None:
    before = state.journal.sequence
    state.begin(KEY)
    assert not state.acceptable(Outcome(0, "computed", sequence=before), ONE, need=0)
    assert state.acceptable(Outcome(0, "computed", sequence=state.journal.sequence), ONE, need=0)


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_6_an_invalidation_detaches_the_flight_under_way(state: State, scope: Scope) -> None:
    first, leads = state.join_or_lead(ONE, 0, ME, joinable=True)
    assert leads
    assert state.join_or_lead(ONE, 0, ME, joinable=True) == (first, False)
    state.begin(scope)
    second, leads = state.join_or_lead(ONE, 0, ME, joinable=True)
    assert leads
    assert second is not first
    state.landed(first, None)  # the detached one ends by itself and takes nobody along
    assert state.join_or_lead(ONE, 0, ME, joinable=True) == (second, False)
    assert first.done.done


@pytest.mark.parametrize("scope", OTHERS, ids=str)
def test_rule_6_invalidations_of_others_detach_nothing(state: State, scope: Scope) -> None:
    first, _ = state.join_or_lead(ONE, 0, ME, joinable=True)
    state.begin(scope)
    assert state.join_or_lead(ONE, 0, ME, joinable=True) == (first, False)


def test_rule_13_a_call_that_others_let_down_still_joins_a_function_that_runs(state: State) -> None:
    first, _ = state.join_or_lead(ONE, 5, ME, joinable=True)
    assert not state.overtaken(first)  # its leader could not ask the primary: it runs the function
    assert state.join_or_lead(ONE, 5, ME, joinable=False) == (first, False)
    later, leads = state.join_or_lead(ONE, 6, ME, joinable=False)  # it knows of a later invalidation
    assert leads
    assert later is not first
    again, leads = state.join_or_lead(ONE, 6, ME, joinable=False)  # the later one still asks a server
    assert leads
    assert again is not later


def test_rule_6_blind_only_young_flights_are_joined(state: State, now: Now) -> None:
    first, _ = state.join_or_lead(ONE, 0, ME, joinable=True)
    now.time += 1.01  # the tail heard nothing since, and the flight began before
    assert state.blind(now.time)
    second, leads = state.join_or_lead(ONE, 0, ME, joinable=True)
    assert leads
    assert second is not first
    now.time += 0.9
    assert state.join_or_lead(ONE, 0, ME, joinable=True) == (second, False)


def test_rule_6_sighted_old_flights_are_joined(state: State, now: Now) -> None:
    first, _ = state.join_or_lead(ONE, 0, ME, joinable=True)
    now.time += 60.0
    state.covers = now.time
    assert state.join_or_lead(ONE, 0, ME, joinable=True) == (first, False)


def test_a_flight_ends_with_its_landing(state: State) -> None:
    first, _ = state.join_or_lead(ONE, 0, ME, joinable=True)
    outcome = Outcome(1, "computed")
    state.landed(first, outcome)
    assert first.done.result is outcome
    first.land(None)  # once only
    assert first.done.result is outcome
    _, leads = state.join_or_lead(ONE, 0, ME, joinable=True)
    assert leads


def test_what_may_not_be_joined_is_led(state: State) -> None:
    first, _ = state.join_or_lead(ONE, 0, ME, joinable=True)
    assert state.join_or_lead(ONE, 0, ME, joinable=False)[1]
    assert len(state.flights) == 1
    state.landed(first, None)
    assert len(state.flights) == 1


def test_flights_know_what_is_under_way() -> None:
    flights = Flights()
    flight = flights.begin(ONE, need=3, now=1.0, leader=ME)
    assert repr(flights) == "<Flights ['ns:1']>"
    assert flights.get("ns:1") is flight
    flights.detach(Scope.of_key("ns:2"))
    assert len(flights) == 1
    flights.clear()
    assert flights.get("ns:1") is None
    assert flights.under_way == 1, "who joined it before still waits for it"
    flights.end(flight)
    assert flights.under_way == 0


# -- rule 8: near never resurrects


@pytest.mark.parametrize(
    "hear", [lambda s, x: s.hear_line(line(x, 10)), lambda s, x: s.begin(x)], ids=["log", "own"]
)
@pytest.mark.parametrize("scope", [KEY, EVERYTHING], ids=str)
def test_rule_8_a_mark_deletes_what_it_covers(
    state: State, hear: Callable[[State, Scope], Any], scope: Scope
) -> None:
    assert put(state)
    hear(state, scope)
    assert not near(state)


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_8_putting_checks_the_marks(state: State, scope: Scope) -> None:
    state.hear_line(line(scope, 10))
    assert not put(state, stamp=9)
    assert put(state, stamp=10)


def test_rule_8_putting_checks_the_tags_of_the_envelope(state: State) -> None:
    state.hear_line(line(Scope.of_tag("b"), 10))
    assert not put(state, entry=envelope(9, tags=(tag_hash("b"),)))


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_8_putting_checks_what_is_pending(state: State, scope: Scope) -> None:
    item = state.begin(scope)
    assert not put(state, stamp=99)
    state.acknowledged(item, 10, "g1")
    assert not put(state, stamp=9)
    assert put(state, stamp=10)


def test_rule_8_putting_checks_what_was_forgotten_since_the_server_was_asked(state: State) -> None:
    state.marks.newest, state.marks.horizon = 20, 10
    assert not put(state, stamp=9, obeyed=9)
    assert put(state, stamp=10, obeyed=9)


def test_rule_8_what_a_server_had_may_be_older_than_the_horizon(state: State) -> None:
    state.marks.newest, state.marks.horizon = 20, 10
    assert put(state, stamp=9, obeyed=10)


def test_rule_5_what_was_asked_before_a_resync_is_not_put(state: State) -> None:
    before = state.resyncs
    resync(state)
    assert not put(state, resyncs=before)
    assert put(state)


def test_rule_5_nothing_is_put_or_kept_while_not_ready(state: State) -> None:
    assert put(state)
    state.unready()
    assert not near(state)
    state.clock.observe(1_000_000_000, 100.0)
    assert not put(state)


def test_rule_5_of_several_reasons_another_data_counts_most(state: State) -> None:
    """A store waits for no resync of the same data, and is in vain on another."""
    assert state.same_data
    state.unready("gap")
    assert state.same_data
    state.unready("generation")
    assert not state.same_data
    assert state.unready_why == "generation"
    state.unready("life")
    assert not state.same_data
    resync(state)
    assert state.same_data


def test_near_lives_no_longer_than_the_entry(state: State, now: Now) -> None:
    assert put(state, entry=envelope(0, soft_s=1002.0), seconds=5.0)
    now.time += 1.99
    assert near(state)
    now.time += 0.02
    assert not near(state)


def test_near_lives_no_longer_than_was_asked(state: State, now: Now) -> None:
    assert put(state, seconds=5.0)
    now.time += 4.99
    assert near(state)
    now.time += 0.02
    assert not near(state)


def test_what_is_over_or_has_no_time_is_not_put(state: State) -> None:
    assert not put(state, entry=envelope(0, soft_s=1000.0))
    assert not put(state, seconds=0.0)
    state.clock.reset()
    assert not put(state)


# -- rules 4 and 5: pending, readiness, resync


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_rule_4_an_own_invalidation_empties_the_gutter_at_once(state: State, scope: Scope) -> None:
    state.gutter.put(ONE, Outcome(0, "computed"), state.now())
    state.begin(scope)
    assert state.gutter.get("ns:1", state.now()) is None


def test_rule_4_given_up_and_withdrawn(state: State, now: Now) -> None:
    item = state.begin(KEY)
    state.given_up(item)
    assert item.due == now.time
    assert state.journal.covers(ONE)
    state.withdrawn(item)
    assert not state.journal.covers(ONE)


def test_rule_5_until_the_resync_what_was_heard_covers(state: State) -> None:
    state.hear_line(line(KEY, 10))
    assert not state.journal.covers(ONE)
    state.unready()
    assert not state.ready
    assert state.tau == float("inf")
    assert state.clock.offset_us is None
    assert state.journal.covers(ONE)
    assert resync(state) == 0
    assert not state.journal.covers(ONE)


def test_rule_5_a_resync_forgets_near_and_flights_and_counts(state: State, now: Now) -> None:
    put(state)
    state.join_or_lead(ONE, 0, ME, joinable=True)
    state.master_down = True
    before, now.time = state.resyncs, 150.0
    resync(state, tip=5, everything=4, tagfloor=3, last="7-0", life="l2")
    assert not near(state)
    assert len(state.flights) == 0
    assert state.resyncs == before + 1
    assert state.tau == 150.0
    assert (state.position, state.known_life, state.generation) == ("7-0", "l2", "g1")
    assert (state.marks.newest, state.marks.everything, state.marks.tag_floor) == (5, 4, 3)
    assert state.ready
    assert not state.master_down


def test_rule_5_a_resync_takes_in_the_marks_that_were_read(state: State) -> None:
    state.resynced(ResyncReply("ok", 0, "g1", gens=(("g1", 0),)), "run", [(Scope.of_tag("a"), 10)], state.now())
    assert state.marks.need(ONE) == 10


def test_rule_19_a_late_refusal_by_the_former_master_does_not_tell_the_time(state: State, now: Now) -> None:
    state.clock_was_wrong(2_000_000_000, "g0")
    assert state.clock.server_us(now.time) == 1_000_000_000
    state.clock_was_wrong(2_000_000_000, "g1")
    assert state.clock.server_us(now.time) == 2_000_000_000
    state.unready(master=True)
    state.clock_was_wrong(2_000_000_000, "g1")
    assert state.clock.server_us(now.time) is None


def test_rule_19_what_is_near_is_dropped_when_the_clock_turns_out_to_be_another(state: State, now: Now) -> None:
    assert put(state)
    now.time += 0.1
    state.observe_time(1_000_150_000, now.time)  # an answer that took less long than the first
    assert near(state)
    for _ in range(8):
        now.time += 0.1
        state.observe_time(4_600_000_000, now.time)
    assert not near(state)
    assert put(state, entry=envelope(0, soft_s=4700.0))
    state.clock_was_wrong(9_000_000_000, "g1")
    assert not near(state)


def test_rule_3_what_a_new_generation_lacks_is_issued_again(state: State, now: Now) -> None:
    state.acknowledged(state.begin(KEY), 10, "g1")
    state.hear_line(line(Scope.of_key("ns:2"), 11))
    assert resync(state, replid="g2", gens=(("g1", 0), ("g2", 9))) == 2
    assert state.journal.covers(ONE)
    dues = [item.due for item in state.journal.pending.values()]
    assert dues[0] == now.time
    assert now.time < dues[1] <= now.time + 0.2  # type: ignore[operator]


def test_who_waits_for_a_resync_is_woken(state: State) -> None:
    assert state.when_ready().done
    state.unready()
    waiter = state.when_ready()
    assert not waiter.done
    resync(state)
    assert waiter.done
    state.unready()
    assert not state.when_ready().done


def test_who_waits_is_woken_when_the_master_turns_out_to_be_down(state: State) -> None:
    state.unready()
    waiter = state.when_ready()
    state.down()
    assert waiter.done
    assert state.master_down


# -- rule 14: when the tail is sure


def test_rule_14_blind_after_max_staleness_without_cover(state: State, now: Now) -> None:
    assert state.sure(now.time + 1.0)
    assert not state.sure(now.time + 1.001)
    state.ready = False
    assert not state.sure(now.time)


def test_a_store_inside_the_process_is_never_blind(state: State, now: Now) -> None:
    state.local = True
    assert state.sure(now.time + 1e9)


# -- marks


def test_rule_2_marks_that_come_with_an_answer_are_learnt(state: State) -> None:
    state.learn(ONE, KnownMarks(tip=9, everything=1, function=2, tagfloor=0, tags=((tag_hash("a"), 3),)))
    assert state.marks.newest == 9
    assert state.marks.need(ONE) == 3


def test_rule_7_key_marks_live_as_long_as_a_replica_may_lag(state: State, now: Now) -> None:
    state.hear_line(line(KEY, 10))
    now.time += 10.4
    state.expire()
    assert state.marks.keys
    now.time += 0.2
    state.expire()
    assert not state.marks.keys
    assert state.marks.horizon == 10
    assert len(state.journal) == 1


# -- leases and forks


def test_leases_are_held_until_let_go(state: State, now: Now) -> None:
    held = state.hold("ns:1", "t", ME.alive, lease=2.0)
    assert (held.granted, held.renewed, held.lease) == (now.time, now.time, 2.0)
    assert state.leases == {"t": held}
    state.let_go(held)
    state.let_go(held)
    assert state.leases == {}


def test_a_child_has_nothing_under_way_and_keeps_what_is_pending(state: State, now: Now) -> None:
    item = state.begin(KEY)
    state.hold("ns:1", "t", ME.alive)
    state.join_or_lead(ONE, 0, ME, joinable=True)
    state.gutter.put(Subject("ns:2"), Outcome(0, "computed"), now.time)
    draws = random.Random(1).random()
    settled = item.settled
    with state.lock:
        state.after_fork()
    with state.lock:
        pass
    assert not state.leases
    assert state.flights.under_way == 0
    assert state.gutter.get("ns:2", now.time) is None
    assert item.due == now.time
    assert item.settled is not settled
    assert not state.ready
    assert state.rng.random() != draws


def test_repr_tells_the_essentials(state: State) -> None:
    assert repr(state).startswith("<State ready=True generation='g1' resyncs=1 <Marks newest=0")


def test_a_life_is_never_named_twice() -> None:
    """Who created the bookkeeping must see that what was created after its loss is another one (rule 5)."""
    tokens = iter(f"{n:016x}" for n in range(100))
    state = State(Settings(), lambda: 0.0, random.Random(1), lambda: next(tokens))
    parent = {state.new_life() for _ in range(3)}
    state.after_fork()
    assert len(parent | {state.new_life() for _ in range(3)}) == 6
