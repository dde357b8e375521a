"""The steps of a drill as values: what is done to the servers, what is waited for, how it is put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evercache.errors import ConfigurationError
from evercache.ops.local import LocalDeployment

__all__ = ["ANYWHERE", "LOCAL", "STEPS", "Options", "Step", "chosen"]

Act = Callable[[LocalDeployment, str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen. `hold`: how long a fault lasts at least; `calm`: how long is measured around it (s)."""

    name: str = "default"
    home: Path | None = None
    #: Servers that are not those of `evercache up`.
    url: str | None = None
    steps: tuple[str, ...] = ()
    hold: float = 6.0
    calm: float = 2.5
    out: Path = Path("evercache-drill")
    processes: int = 3

    def __post_init__(self) -> None:
        chosen(self.steps, self.url is not None)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault. `{node}` in the texts stands for whom it is done to."""

    name: str
    title: str
    #: What is done, what it stands for in real life, and what visitors should notice.
    does: str
    like: str
    expect: str
    #: Said when it is done, and when it has been undone.
    done: str
    undone: str
    victim: Literal["master", "replica", "sentinel", "all"]
    #: None: the servers do it by themselves, at an order (a planned failover).
    do: Act | None
    undo: Act | None
    #: Another master is promoted meanwhile, and that is waited for.
    promotes: bool = False
    #: The master may end right after an acknowledgement that nobody else has heard.
    dying: bool = False
    #: A longer `hold` than so many seconds shows nothing more.
    at_most: float = 600.0


def _kill(deployment: LocalDeployment, node: str) -> None:
    deployment.kill(node)


def _start(deployment: LocalDeployment, node: str) -> None:
    deployment.start(node)


def _freeze(deployment: LocalDeployment, node: str) -> None:
    deployment.freeze(node)


def _thaw(deployment: LocalDeployment, node: str) -> None:
    deployment.thaw(node)


def _start_anew(deployment: LocalDeployment, node: str) -> None:
    # A sentinel that was frozen and goes on distrusts its clock, and helps with no failover for 30 s.
    deployment.kill(node)
    deployment.start(node)


def _stop_all(deployment: LocalDeployment, _: str) -> None:
    deployment.stop_all()


def _start_all(deployment: LocalDeployment, _: str) -> None:
    deployment.start_all()


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            "kill-master",
            "The master is killed",
            "{node}, the master, is ended at once (SIGKILL), and started again later.",
            "A machine loses power, or the kernel ends the server for want of memory.",
            "Pages go on, from the replicas. Changes wait until Sentinel has made another node the master.",
            "{node} is killed",
            "{node} is started again",
            "master",
            _kill,
            _start,
            promotes=True,
            dying=True,
        ),
        Step(
            "pause-master",
            "The master is frozen",
            "{node}, the master, is frozen (SIGSTOP): connections stay open, nothing answers. It goes on later.",
            "A virtual machine that is moved or stalled, a disk that hangs, a cut network.",
            "Pages that asked it just then wait for a moment; changes wait until there is another master.",
            "{node} is frozen",
            "{node} goes on",
            "master",
            _freeze,
            _thaw,
            promotes=True,
            dying=True,
        ),
        Step(
            "freeze-replica",
            "A replica is frozen",
            "{node}, a replica, is frozen (SIGSTOP): connections stay open, nothing answers. It goes on later.",
            "A machine that is overloaded or out of reach, while half of the reads go there.",
            "Pages that asked it just then are answered by another node; changes go on.",
            "{node} is frozen",
            "{node} goes on",
            "replica",
            _freeze,
            _thaw,
        ),
        Step(
            "cut-sentinel",
            "A sentinel is cut off",
            "{node} is frozen, so that the other sentinels receive nothing from it; it is started anew later.",
            "One of the hosts that watch over the master is out of reach.",
            "Nothing at all.",
            "{node} is cut off",
            "{node} is started anew",
            "sentinel",
            _freeze,
            _start_anew,
        ),
        Step(
            "restart-all",
            "All servers are restarted",
            "All nodes and sentinels are stopped, so for seconds there is no cache at all; then they are started.",
            "A data centre without power, an upgrade that goes wrong.",
            "Pages are computed instead of read; changes wait. Afterwards what was cached is cached still.",
            "all servers are stopped",
            "all servers run",
            "all",
            _stop_all,
            _start_all,
            dying=True,
            at_most=3.0,
        ),
        Step(
            "hand-over",
            "A planned failover",
            "{node}, the master, hands over to a replica, as by `evercache failover`.",
            "Maintenance of the master's machine.",
            "Pages go on; changes wait for a moment.",
            "{node} is asked to hand over",
            "{node} follows the new master",
            "master",
            None,
            None,
            promotes=True,
        ),
    )
}

#: What is done to servers of `evercache up`, in this order, if nothing is chosen; and what may be done to any.
LOCAL = ("kill-master", "pause-master", "freeze-replica", "cut-sentinel", "restart-all")
ANYWHERE = ("hand-over",)


def chosen(names: Sequence[str], elsewhere: bool) -> tuple[Step, ...]:
    """The steps of these names, or those that are usual; ConfigurationError."""
    for name in names:
        if name not in STEPS:
            raise ConfigurationError(f"{name!r} is no step of a drill: use {', '.join(STEPS)}")
        if elsewhere and name not in ANYWHERE:
            raise ConfigurationError(
                f"{name} ends or freezes processes, which is done to servers of `evercache up` only (--name): for "
                f"those behind a URL this program could not put it back. With --url there is {', '.join(ANYWHERE)}"
            )
    return tuple(STEPS[name] for name in names or (ANYWHERE if elsewhere else LOCAL))
