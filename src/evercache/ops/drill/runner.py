"""Runs a drill: checks, clients, one step after the other, everything put back, the report."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from evercache.errors import DeploymentError, EvercacheError, NotWhole
from evercache.ops.drill.document import Mark, Report, StepReport, assemble, environment
from evercache.ops.drill.fleet import Fleet
from evercache.ops.drill.guardian import SCRATCH, Guardian, State, forget, one_at_a_time, put_back, restore
from evercache.ops.drill.interrupts import PUTTING_BACK, REPORTING, Interrupts
from evercache.ops.drill.measure import Figures, Phases, Warmth, measure
from evercache.ops.drill.page import require, write
from evercache.ops.drill.plan import Options, Step, chosen
from evercache.ops.drill.records import KEYS, Written
from evercache.ops.drill.subject import Subject
from evercache.ops.drill.verdict import Promise, in_words, promises_of_step
from evercache.ops.drill.warm import look, warmth
from evercache.ops.drill.watch import Watch
from evercache.ops.failover import Failover, harmless
from evercache.ops.survey import Survey

__all__ = ["Answer", "Drill", "Say"]

Say = Callable[[str], None]

#: Until another master is promoted, and until all is whole again after a failover by order (s).
_PROMOTION, _WHOLE = 30.0, 45.0
#: Clients bring their records to the file so often that after this (s) everything is there.
_FLUSHED = 0.7


class Answer(Enum):
    """To the question before a step."""

    yes = "yes"
    skip = "skip"
    quit = "quit"


#: Asked before each step, with the text of what will be done.
Ask = Callable[[Step, str], Answer]


@dataclass(slots=True)
class _Done:
    """One step under way or over; moments are of the monotonic clock."""

    step: Step
    node: str
    state: str = "interrupted"
    trouble: str = ""
    began: float = 0.0
    marks: list[tuple[float, str, str]] = field(default_factory=list)
    fault: float | None = None
    done: float | None = None
    undone: float | None = None
    whole: float | None = None
    ended: float | None = None
    promoted: float | None = None
    warmth: Warmth | None = None

    def phases(self, now: float) -> Phases | None:
        """None when nothing was done to the servers. What had not come when it was cut off came now."""
        if self.fault is None:
            return None
        ended = self.ended or now
        whole = self.whole or ended
        return Phases(
            self.began,
            self.fault,
            self.done or self.fault,
            self.undone or whole,
            whole,
            ended,
            self.step.promotes and (self.promoted is not None or self.state == "done"),
            self.promoted,
            self.step.dying,
        )


class Drill:
    """One drill. `run` belongs to the main thread, as it has to do with signals."""

    def __init__(self, options: Options, ask: Ask, say: Say = lambda text: None) -> None:
        self._options = options
        self._ask = ask
        self._say = harmless(say)
        self._steps = chosen(options.steps, options.url is not None)
        self._subject = Subject.of(options)
        self._done: list[_Done] = []
        self._namespace = f"drill-{secrets.token_hex(4)}"
        self._began = time.monotonic()
        self._trouble = ""
        self._back = True

    def __repr__(self) -> str:
        return f"<Drill of {self._subject.name!r}, {len(self._steps)} steps>"

    @property
    def steps(self) -> tuple[Step, ...]:
        """What will be done, in this order."""
        return self._steps

    def check(self) -> Survey:
        """How the servers stand; DrillRefused where that forbids a drill, PackageMissing where it has no report."""
        require(self._options.out)
        if self._subject.deployment is not None:
            with one_at_a_time(self._subject.deployment):
                pass  # else what another drill does would be taken for a fault of the servers
        return self._subject.check()

    def run(self) -> Report:
        """Do it all. However it ends, everything is put back; raises what forbids the beginning, and `Left`."""
        with contextlib.ExitStack() as stack:
            require(self._options.out)
            interrupts = stack.enter_context(Interrupts(self._say))
            deployment = self._subject.deployment
            guardian = None
            scratch = Path(tempfile.mkdtemp(prefix=SCRATCH))  # for its owner only
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            if deployment is not None:
                lock = stack.enter_context(one_at_a_time(deployment))
                if restore(deployment, self._say):
                    self._say("what a drill that was cut off had left is put back")
            seen = self._subject.check()
            if deployment is not None:
                State(deployment).write(self._namespace, scratch, "")
                guardian = Guardian(deployment, lock)
            return self._guarded(interrupts, guardian, scratch, seen)

    def _guarded(self, interrupts: Interrupts, guardian: Guardian | None, scratch: Path, seen: Survey) -> Report:
        started = datetime.now(UTC)
        self._began = time.monotonic()
        size = self._options.processes
        fleet = Fleet(self._subject.url, self._namespace, scratch, size)
        try:
            try:
                interrupts.open()
                self._work(fleet, scratch, seen)
                interrupts.shut()
            except KeyboardInterrupt:
                self._say("interrupted: everything is put back")
            except Exception as error:  # whatever it is, everything is put back, and the report has its words
                self._trouble = str(error) if isinstance(error, EvercacheError) else repr(error)
                if self._done and self._done[-1].state == "interrupted":
                    self._done[-1].state, self._done[-1].trouble = "failed", self._trouble
                self._say(f"{self._trouble}; everything is put back")
            interrupts.shut()
            interrupts.answer = PUTTING_BACK
            self._put_back()
            interrupts.answer = REPORTING
            self._end(fleet, guardian)
        except BaseException:
            fleet.close()
            if guardian is not None:
                guardian.leave()
            raise
        written, now = Written.read(scratch), time.monotonic()
        facts = environment(seen, self._subject, fleet.size, started, now - self._began)
        within = self._subject.replaced_within()
        report = assemble(facts, self._reports(written, now), written, within, self._back, self._trouble)
        self._say("drawing the report")
        write(report, self._options.out)
        return report

    # -- the steps

    def _work(self, fleet: Fleet, scratch: Path, seen: Survey) -> None:
        processes, readers = fleet.size
        self._say(f"starting {processes} processes with {readers} readers each, and having {KEYS} pages cached")
        fleet.start()
        nodes = {node.name: node.address for node in seen.nodes}
        with Watch(nodes, self._subject.targets.node_options) as watch:
            for step in self._steps:
                now = self._subject.look()
                node = self._victim(step, now)
                answer = self._ask(step, step.does.format(node=node))
                if answer is Answer.quit:
                    return
                done = _Done(step, node)
                self._done.append(done)
                if answer is Answer.skip:
                    done.state = "skipped"
                    continue
                self._one(done, watch, scratch)
                self._tell(done, scratch)
                if not fleet.alive():
                    raise DeploymentError("a client of the drill ended by itself")

    def _victim(self, step: Step, seen: Survey) -> str:
        if step.victim == "master":
            return seen.master_name or str(seen.master)
        if step.victim == "replica":
            return next(node.name for node in seen.nodes if node.role == "replica")
        return seen.sentinels[0].name if step.victim == "sentinel" else "all"

    def _one(self, done: _Done, watch: Watch, scratch: Path) -> None:
        step, options, deployment = done.step, self._options, self._subject.deployment
        done.began = time.monotonic()
        if deployment is not None:
            State(deployment).write(self._namespace, scratch, step.name)
        time.sleep(options.calm)
        before = self._look() if step.victim == "all" else None
        done.fault = time.monotonic()
        if step.do is None:
            self._hand_over(done, watch)
        else:
            assert deployment is not None
            assert step.undo is not None
            step.do(deployment, done.node)
            done.done = time.monotonic()
            self._mark(done, "fault", step.done, done.fault)
            if step.promotes:
                self._await_promotion(done, watch, _PROMOTION)
            enough = done.fault + min(options.hold, step.at_most)
            time.sleep(max(0.0, enough - time.monotonic(), 1.0 if step.promotes else 0.0))
            step.undo(deployment, done.node)
            done.undone = self._mark(done, "undone", step.undone)
            deployment.bring_up()
        done.whole = self._mark(done, "whole", "all is whole")
        if before is not None:
            done.warmth = warmth(before, self._look())
        time.sleep(max(options.calm, _FLUSHED))
        done.ended = time.monotonic()
        done.state = "done"

    def _hand_over(self, done: _Done, watch: Watch) -> None:
        assert done.fault is not None
        self._mark(done, "fault", done.step.done, done.fault)
        handing = Failover(self._subject.targets)
        handing.run()
        done.undone = time.monotonic()
        self._await_promotion(done, watch, 2.0)

    def _await_promotion(self, done: _Done, watch: Watch, timeout: float) -> None:
        assert done.fault is not None
        end = time.monotonic() + timeout
        while (found := watch.promoted_after(done.fault)) is None:
            if time.monotonic() > end:
                done.trouble = f"no other master after {timeout:.0f} s"
                self._say(f"    {done.trouble}")
                return
            time.sleep(0.02)
        done.promoted, name = found
        self._mark(done, "promoted", f"{name} is the master", done.promoted)

    def _mark(self, done: _Done, kind: str, text: str, moment: float | None = None) -> float:
        moment = time.monotonic() if moment is None else moment
        label = text.format(node=done.node)
        done.marks.append((moment, kind, label))
        assert done.fault is not None
        self._say(f"    {moment - done.fault:5.1f} s  {label}")
        return moment

    # -- warmth

    def _look(self) -> dict[int, int]:
        return look(self._subject.url, self._namespace)

    # -- the end

    def _put_back(self) -> None:
        """Whatever was done: everything runs, is thawed and in sync."""
        deployment, now = self._subject.deployment, time.monotonic
        try:
            if deployment is not None:
                put_back(deployment, self._say)
            else:
                end = now() + _WHOLE
                while not (seen := self._subject.look()).whole:
                    if now() > end:
                        raise NotWhole(f"not whole after {_WHOLE:.0f} s: {'; '.join(seen.problems)}")
                    time.sleep(0.25)
        except EvercacheError as error:
            self._back = False
            self._trouble = self._trouble or str(error)
            self._say(f"not everything is back: {error}")
        for done in self._done:
            if done.state == "interrupted" and done.fault is not None and self._back:
                done.whole = done.whole or self._mark(done, "whole", "all is whole")

    def _end(self, fleet: Fleet, guardian: Guardian | None) -> None:
        """The clients end, their keys go, and so does the guardian."""
        self._say("asking every client for what it knows; removing the keys of the drill")
        if fleet.alive() and not (fleet.tell("quiet") and fleet.tell("final") and fleet.tell("stop")):
            self._trouble = self._trouble or "a client of the drill did not answer at the end"
        fleet.close()
        if not self._back:
            if guardian is not None:
                guardian.leave()
            return
        try:
            forget(self._subject.targets, self._namespace)
        except EvercacheError as error:
            self._say(f"the keys {self._namespace}:* are still there, and expire within 20 minutes: {error}")
        if guardian is not None:
            assert self._subject.deployment is not None
            State(self._subject.deployment).remove()
            guardian.dismiss()

    # -- what was seen

    def _tell(self, done: _Done, scratch: Path) -> None:
        """Right after a step: what it was like, in a line."""
        phases = done.phases(time.monotonic())
        assert phases is not None
        figures = replace(measure(Written.read(scratch), [phases])[0], warmth=done.warmth)
        report = self._report(done, phases, figures)
        bad = "; ".join(f"{one.text}: {one.seen}" for one in report.promises if one.kept is report.kept)
        words = {True: f"kept: {in_words(figures)}", None: f"NOT JUDGED: {bad}", False: f"BROKEN: {bad}"}
        self._say("    " + words[report.kept])

    def _report(self, done: _Done, phases: Phases | None, figures: Figures | None) -> StepReport:
        step = done.step
        promises: tuple[Promise, ...] = ()
        marks: tuple[Mark, ...] = ()
        if phases is not None and figures is not None:
            lasted, within = phases.ended - phases.began, self._subject.replaced_within()
            whole = done.whole is not None
            promises = tuple(promises_of_step(figures, within, whole, lasted))
            marks = tuple(Mark(moment - phases.fault, kind, text) for moment, kind, text in done.marks)
        does = step.does.format(node=done.node)
        return StepReport(
            step.name,
            step.title,
            does,
            step.like,
            step.expect,
            done.node,
            done.state,
            done.trouble,
            marks,
            figures,
            promises,
        )

    def _reports(self, written: Written, now: float) -> list[StepReport]:
        phases = [(done, done.phases(now)) for done in self._done]
        figures = iter(measure(written, [one for _, one in phases if one is not None]))
        reports = [
            self._report(done, one, None if one is None else replace(next(figures), warmth=done.warmth))
            for done, one in phases
        ]
        for step in self._steps[len(reports) :]:
            does = step.does.format(node=f"the {step.victim}")
            reports.append(StepReport(step.name, step.title, does, step.like, step.expect, "", "left out"))
        return reports
