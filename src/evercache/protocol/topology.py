"""Who is the master, decided from what sentinels and data nodes say (rule 17 of the protocol).

Only the highest configuration epoch counts: after a failover some sentinels go on naming the old master for
seconds, and whoever follows them writes into a server that will be wiped. Times are monotonic seconds and are
those of *sending* a question: an answer says how things were at some moment after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from evercache.errors import (
    AuthenticationFailed,
    MasterUnknown,
    SentinelsDisagree,
    SentinelsUnreachable,
    ServiceUnknown,
    UnavailableError,
)
from evercache.protocol.sentinels import Promotion, ReplicaSeen, RoleReport, SentinelAnswer, SentinelSeen, View
from evercache.protocol.types import Address

__all__ = [
    "ELECTION",
    "LONGEST_WAIT",
    "Promotion",
    "ReplicaSeen",
    "RoleReport",
    "SentinelAnswer",
    "SentinelBook",
    "SentinelSeen",
    "View",
]

#: Seconds from the moment at which the first sentinel counts the master as dead to the promotion, at most: a ping
#: period, the agreement, the random delay of the election, the votes and the promotion take up to a second each.
#: (An election without a winner takes twice `failover-timeout` more.)
ELECTION = 5.0
#: What waits for a promotion by itself waits no longer (seconds): a page that it belongs to is given up before.
LONGEST_WAIT = 30.0

#: Answers older than this take no part in the choice of the master (seconds).
CURRENT = 5.0
#: Sentinels tell each other a new configuration within their hello period of 2 s: a majority that names a
#: lower epoch for longer than this is not merely late.
HELLO = 2.5
#: A replica that a sentinel has chosen and not promoted within this time is not waited for any more (seconds).
PATIENCE = 10.0
#: For so long (seconds) the first view waits for the answer of a replica that has been chosen.
WAITING = 0.3


class _Vote(Struct, frozen=True):
    """A sentinel has voted for another, or for itself, to lead the failover of this epoch."""

    epoch: int
    #: When it was heard, at the latest.
    at: float


class SentinelBook:
    """All that was heard, and what follows from it.

    Guarded by: used by one thread (the topology's loop) only; `view` and `confirmed` are immutable values
    that any thread may read.
    """

    def __init__(self, service: str, sentinels: Iterable[Address]) -> None:
        self.service = service
        #: Address -> MYID; those of the configuration are never forgotten.
        self._known: dict[Address, str] = dict.fromkeys(sentinels, "")
        self._configured = frozenset(self._known)
        self._answers: dict[str, SentinelAnswer] = {}
        self._errors: dict[Address, UnavailableError] = {}
        self._roles: dict[Address, RoleReport] = {}
        self._not_master_at: dict[Address, float] = {}
        self._clean_at: dict[str, float] = {}
        #: The votes of each sentinel, by its key, that may still be acted upon: the newest for each leader.
        self._votes: dict[str, dict[str, _Vote]] = {}
        self._promotions: dict[str, Promotion] = {}
        self._all_asked = False
        self._dismissed: set[tuple[Address, int]] = set()
        self._lower: tuple[Address, int, float] | None = None
        self._discovered: tuple[Address, ...] = ()
        self.view = View(0, None, (), MasterUnknown("the sentinels have not been asked yet"))
        #: Address and time of the newest strict confirmation.
        self.confirmed: tuple[Address | None, float] = (None, -inf)

    def __repr__(self) -> str:
        v = self.view
        return (
            f"<SentinelBook {self.service} epoch={v.epoch} master={v.master} replicas={len(v.replicas)} "
            f"sentinels={len(self._known)} errors={len(self._errors)}>"
        )

    # -- what goes in

    def heard(self, answer: SentinelAnswer, now: float) -> None:
        """One sentinel answered or failed. May change `view` and `confirmed`."""
        if answer.error is not None:
            self._errors[answer.sentinel] = answer.error
            return
        self._errors.pop(answer.sentinel, None)
        key = answer.ident or str(answer.sentinel)
        before = self._known.get(answer.sentinel, "") or str(answer.sentinel)
        self._known[answer.sentinel] = answer.ident
        self._meet(answer)
        if before != key and before not in self._known.values():
            self._answers.pop(before, None)  # another sentinel lives at this address now
        last = self._answers.get(key)
        if last is not None and last.sent > answer.sent:
            return
        self._answers[key] = answer
        self._forget_votes(key, answer)
        self._note_promotion(key, answer)
        self._decide(now, closing=False)
        self._weigh(key, answer)
        self._confirm()

    def _meet(self, answer: SentinelAnswer) -> None:
        """Add the sentinels that this one names, each under one address only."""
        for other in answer.others:
            known = self._known.get(other.address)
            if not known and (not other.ident or other.ident not in self._known.values()):
                self._known[other.address] = other.ident
        twins = [a for a, i in self._known.items() if i and i == answer.ident and a != answer.sentinel]
        for address in twins:
            if address not in self._configured:
                self._forget_sentinel(address)

    def _forget_sentinel(self, address: Address) -> None:
        key = self._known.pop(address) or str(address)
        self._errors.pop(address, None)
        if key not in self._known.values():
            for known in (self._answers, self._promotions, self._votes):
                known.pop(key, None)

    def voted(self, sentinel: Address, leader: str, epoch: int, now: float) -> None:
        """A sentinel has published its vote, for the master of this service or of another one."""
        votes = self._votes.setdefault(self._known.get(sentinel) or str(sentinel), {})
        votes[leader] = _Vote(epoch, now)

    def role(self, report: RoleReport, now: float) -> None:
        """A data node told its role, or failed to."""
        if report.role:
            self._roles[report.address] = report
            if report.role != "master":
                self._not_master_at[report.address] = report.sent
        else:
            self._roles.pop(report.address, None)
        self._decide(now, closing=False)
        if report.role == "master" and report.address != self.view.master:
            self._retract(self._not_master_at.get(report.address, -inf))
        self._confirm()

    def discovered(self, replicas: Iterable[Address]) -> None:
        """The replicas that the master itself lists: known at once, not after a sentinel's INFO (10 s)."""
        self._discovered = tuple(replicas)
        self._publish(self.view.master, self.view.epoch, self.view.problem)

    def round_over(self, now: float) -> None:
        """Every sentinel was asked and has answered or failed: settle, and say what is wrong."""
        named = {other.address for a in self._answers.values() for other in a.others}
        for address in set(self._errors) - self._configured - named:
            self._forget_sentinel(address)
        asked = {*self.nodes, self.view.master}
        self._roles = {a: r for a, r in self._roles.items() if a in asked}
        self._decide(now, closing=True)
        self._confirm()

    # -- what comes out

    @property
    def sentinels(self) -> tuple[Address, ...]:
        """Every sentinel address, the configured ones first."""
        return tuple(self._known)

    @property
    def errors(self) -> dict[Address, UnavailableError]:
        """Sentinels that failed when last asked, and how."""
        return dict(self._errors)

    @property
    def agreed(self) -> bool:
        """Whether all sentinels answered the last question, and named the master of the view in its epoch."""
        view = self.view
        return not self._errors and all(
            a.master == view.master and a.epoch == view.epoch for a in self._answers.values()
        )

    def last(self, sentinel: Address) -> SentinelAnswer | None:
        """The newest answer from this address."""
        answer = self._answers.get(self._known.get(sentinel) or str(sentinel))
        return answer if answer is not None and answer.sentinel == sentinel else None

    @property
    def nodes(self) -> tuple[Address, ...]:
        """Every data node whose role matters."""
        seen = {r.address for a in self._answers.values() for r in a.replicas}
        seen.update(a.master for a in self._answers.values() if a.master is not None)
        return tuple(sorted(seen.union(self._discovered), key=str))

    def confirmed_since(self, address: Address | None) -> float:
        """The newest moment at which this address was confirmed as the master; -inf: never."""
        confirmed, moment = self.confirmed
        return moment if address is not None and confirmed == address else -inf

    @property
    def down_after(self) -> float | None:
        """The longest silence (seconds) after which a sentinel counts a master as dead; None: not known yet."""
        return max((a.down_after for a in self._answers.values() if a.down_after), default=None)

    @property
    def majority(self) -> int:
        """More than half of all sentinels that are known to exist, answering or not."""
        named = max((a.known_sentinels for a in self._answers.values()), default=0)
        return max(len({i or str(a) for a, i in self._known.items()}), named) // 2 + 1

    # -- the choice of the master

    def _decide(self, now: float, *, closing: bool) -> None:
        fresh = [a for a in self._answers.values() if a.master is not None and now - a.sent <= CURRENT]
        fresh = [self._foreseen(a) for a in fresh if a.sentinel not in self._errors]
        epoch, master = self.view.epoch, self.view.master
        self._all_asked = self._all_asked or closing
        if master is None and not self._all_asked and len(fresh) < len(self._known):
            return  # the one that is missing may lead a failover of which the others know nothing yet
        if master is None and self._unasked(now):
            return
        claims = [a for a in fresh if (a.master, a.epoch) not in self._dismissed] or fresh
        problem: UnavailableError | None = None
        if claims:
            top = max(a.epoch for a in claims)
            lower = self._lower_claim(claims, now)
            if lower is not None:
                if master is not None:
                    self._dismissed.add((master, epoch))
                master, epoch = lower
            elif master is None or top >= epoch:
                chosen = self._elect([a.master for a in claims if a.epoch == top and a.master], master)
                if chosen is None:
                    problem = self._disagreement(claims, top)
                    if top > epoch:
                        master = None
                else:
                    master, epoch = chosen, top
        if closing and not fresh:
            problem = self._silence()
        elif not fresh:
            problem = self.view.problem
        self._publish(master, epoch, problem)

    def _note_promotion(self, key: str, answer: SentinelAnswer) -> None:
        chosen = [r.address for r in answer.replicas if "promoted" in r.flags]
        if "failover_in_progress" not in answer.flags or len(chosen) != 1:
            self._promotions.pop(key, None)
            return
        old = self._promotions.get(key)
        # The leader may vote for another one meanwhile: the epoch of its own election is the first.
        if old is None or old.address != chosen[0]:
            self._promotions[key] = Promotion(chosen[0], self._election(key, answer), answer.sent)

    def _election(self, key: str, answer: SentinelAnswer) -> int:
        """The epoch in which this sentinel was elected, as those who voted told it. Nobody votes in a failover that
        somebody ordered: then it is the epoch of its own vote, and the next one at least."""
        epochs = [o.vote_epoch for o in answer.others if o.voted_for == key and o.vote_epoch > answer.epoch]
        own = self._votes.get(key, {}).get(key)
        if own is not None:
            epochs.append(own.epoch)
        return max([*epochs, answer.epoch + 1])

    def _promotion(self, answer: SentinelAnswer) -> Promotion | None:
        return self._promotions.get(answer.ident or str(answer.sentinel))

    def _foreseen(self, answer: SentinelAnswer) -> SentinelAnswer:
        """The answer as this sentinel will give it: its choice is master already, by its own word."""
        promotion = self._promotion(answer)
        if promotion is None or answer.epoch >= promotion.epoch or not self._is_master(promotion.address):
            return answer
        if self._roles[promotion.address].sent < promotion.since:
            return answer  # said before it was chosen: a master of former times
        return replace(answer, master=promotion.address, epoch=promotion.epoch)

    def _unasked(self, now: float) -> bool:
        """Whether a replica was chosen just now that has not been asked yet whether it is master."""
        for p in self._promotions.values():
            report = self._roles.get(p.address)
            if p.epoch > self.view.epoch and (report is None or report.sent < p.since) and now - p.since < WAITING:
                return True
        return False

    def promotions(self, now: float) -> tuple[Address, ...]:
        """The replicas that have been chosen and may say any moment that they are masters."""
        return tuple(
            {
                p.address
                for p in self._promotions.values()
                if p.epoch > self.view.epoch and now - p.since <= PATIENCE
            }
        )

    def _elect(self, named: list[Address], current: Address | None) -> Address | None:
        """One address of those named at the same epoch; None when nothing tells them apart."""
        ranked = sorted(
            ((count, self._is_master(a), a == current, a) for a, count in Counter(named).items()),
            key=lambda r: r[:3],
            reverse=True,
        )
        if len(ranked) > 1 and ranked[0][:3] == ranked[1][:3]:
            return None
        return ranked[0][3]

    def _lower_claim(self, claims: list[SentinelAnswer], now: float) -> tuple[Address, int] | None:
        """A lower epoch counts only when a majority agrees on it, its master says so too, and it lasts.

        In a planned failover the majority names the old epoch, and the old master agrees, for up to a hello
        period; sentinels that were created anew go on doing so.
        """
        tally = Counter((a.master, a.epoch) for a in claims)
        (master, epoch), count = tally.most_common(1)[0]
        known = self.view.master is not None and epoch < self.view.epoch
        if not known or master is None or count < self.majority or not self._is_master(master):
            self._lower = None
            return None
        if self._lower is None or self._lower[:2] != (master, epoch):
            self._lower = (master, epoch, now)
        wait = HELLO
        if self.view.master is not None and self.view.master != master and self._is_master(self.view.master):
            wait = max(HELLO, 2 * max(a.failover_timeout for a in claims))
        # Asked again after that time: in between, the process may have been suspended and have heard of nothing.
        lasted = self._lower[2] + wait
        again = sum(a.sent >= lasted for a in claims if (a.master, a.epoch) == (master, epoch))
        if again < self.majority or self._roles[master].sent < lasted:
            return None
        self._lower = None
        return master, epoch

    def _is_master(self, address: Address) -> bool:
        report = self._roles.get(address)
        return report is not None and report.role == "master"

    def _disagreement(self, claims: list[SentinelAnswer], top: int) -> UnavailableError:
        said = ", ".join(f"{a.sentinel} says {a.master}" for a in claims if a.epoch == top)
        return SentinelsDisagree(
            f"the sentinels name different masters of {self.service!r} at epoch {top}: {said}; "
            f"compare SENTINEL MASTER {self.service} on each and RESET the wrong ones"
        )

    def _silence(self) -> UnavailableError:
        asked = ", ".join(str(a) for a in self._known)
        unknown = [e for e in self._errors.values() if isinstance(e, ServiceUnknown)]
        if unknown:
            return ServiceUnknown(
                f"no sentinel monitors a master named {self.service!r} (asked: {asked}); "
                f"check the service name in the URL and `sentinel monitor` in the sentinels' configuration"
            )
        refused = [a for a, e in self._errors.items() if isinstance(e, AuthenticationFailed)]
        hint = "check that they run and that their addresses in the URL are right"
        if refused:
            names = ", ".join(str(a) for a in refused)
            hint = f"{names} refused the password: set sentinel_username/sentinel_password in the URL"
        reasons = "; ".join(f"{a}: {str(e).removeprefix(f'{a}: ')}" for a, e in self._errors.items())
        return SentinelsUnreachable(
            f"no sentinel of {self.service!r} answered (asked: {asked}): {hint} ({reasons})"
        )

    def _publish(self, master: Address | None, epoch: int, problem: UnavailableError | None) -> None:
        old = self.view
        if master != old.master:
            self._discovered = ()
        listed: set[Address] = set()
        for a in self._answers.values():
            promotes = a.epoch != epoch and (p := self._promotion(a)) is not None and p.epoch == epoch
            if a.epoch == epoch or promotes:
                listed.update(r.address for r in a.replicas)
            if promotes and a.master is not None:
                listed.add(a.master)  # it is to follow, as soon as it lives: strict writes wait for it
        listed.update(self._discovered)
        if master is not None:
            listed.discard(master)
        if problem is not None and old.problem is not None and repr(problem) == repr(old.problem):
            problem = old.problem  # the same trouble is the same view
        view = View(epoch, master, tuple(sorted(listed, key=str)), problem)
        if view != old:
            self.view = view
        if master != old.master:  # what was said before of the new one counts from then on
            self._clean_at = {k: a.sent for k, a in self._answers.items() if not self._vetoes(a)}

    # -- the strict confirmation

    def _forget_votes(self, key: str, answer: SentinelAnswer) -> None:
        """Those that nobody acts on any more: of this epoch or before, or older than twice failover-timeout."""
        oldest = answer.sent - 2 * answer.failover_timeout
        votes = {n: v for n, v in self._votes.pop(key, {}).items() if v.epoch > answer.epoch and v.at > oldest}
        if votes:
            self._votes[key] = votes

    def _vetoes(self, answer: SentinelAnswer) -> bool:
        """Whether the answer speaks against the master of the view."""
        return answer.master != self.view.master or bool(answer.flags & {"failover_in_progress", "o_down"})

    def _weigh(self, key: str, answer: SentinelAnswer) -> None:
        if self._vetoes(answer):
            # It may have been so ever since this sentinel last said otherwise.
            self._retract(self._clean_at.get(key, -inf))
        else:
            self._clean_at[key] = answer.sent

    def _retract(self, moment: float) -> None:
        address, confirmed = self.confirmed
        if moment < confirmed:
            self.confirmed = (address, moment)

    def _confirm(self) -> None:
        master, epoch = self.view.master, self.view.epoch
        if master is None:
            return
        if self.confirmed[0] != master:
            self.confirmed = (master, -inf)
        if any(r.role == "master" and a != master for a, r in self._roles.items()):
            return
        if master in self._roles and not self._is_master(master):
            return
        clean: dict[str, SentinelAnswer] = {}
        vetoed = -inf  # until when
        for key, a in self._answers.items():
            if self._vetoes(a):
                vetoed = max(vetoed, a.sent + 2 * a.failover_timeout)
            elif a.epoch == epoch:
                clean[key] = a
        for moment in sorted((a.sent for a in clean.values()), reverse=True):
            if moment <= max(vetoed, self.confirmed[1]):
                return
            # Nobody of those leads a failover at that moment; each of the others might.
            innocent = {key for key, a in clean.items() if a.sent >= moment}
            if sum(self._binds(key, clean[key], innocent) for key in innocent) >= self.majority:
                self.confirmed = (master, moment)
                return

    def _binds(self, key: str, answer: SentinelAnswer, innocent: set[str]) -> bool:
        """Whether this sentinel cannot have helped to elect any sentinel but those, for a failover not over yet.

        Whoever leads a failover was voted for by a majority, and acts on that for twice failover-timeout at most.
        """
        since = answer.sent - 2 * answer.failover_timeout
        for leader, vote in self._votes.get(key, {}).items():
            if leader not in innocent and vote.at > self._clean_at.get(leader, -inf):
                return False
        others = {o.ident or str(o.address): o for o in answer.others}
        for address, ident in self._known.items():
            suspect = ident or str(address)
            if suspect in innocent or answer.followed_since <= max(since, self._clean_at.get(suspect, -inf)):
                continue
            seen = others.get(suspect)
            if seen is None or seen.silent_for < 2 * answer.failover_timeout + HELLO:
                return False
        return True
