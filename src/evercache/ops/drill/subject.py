"""Whose servers the drill is about: those of `evercache up`, which it may end and freeze, or any other."""

from __future__ import annotations

from dataclasses import dataclass

from evercache.errors import DrillRefused
from evercache.ops.drill.plan import Options
from evercache.ops.failover import Failover
from evercache.ops.local import LocalDeployment
from evercache.ops.remote import targets_of
from evercache.ops.survey import Survey, Targets, survey

__all__ = ["Subject"]


@dataclass(frozen=True, slots=True)
class Subject:
    """The servers, by name or by URL."""

    name: str
    url: str
    #: None: servers whose processes are not ours.
    deployment: LocalDeployment | None
    targets: Targets

    @classmethod
    def of(cls, options: Options) -> Subject:
        """By the options; DeploymentUnknown, URLError, and DrillRefused for servers without Sentinel."""
        if options.url is None:
            deployment = LocalDeployment.open(options.name, options.home)
            return cls(options.name, deployment.url, deployment, deployment.targets)
        targets = targets_of(options.url)
        if not targets.sentinels:
            raise DrillRefused(
                "these servers have no Sentinel, so nothing could be tried on them without ending their processes: "
                "give a sentinel:// URL, or try it on servers of `evercache up`"
            )
        return cls(targets.service or "servers", options.url, None, targets)

    def look(self) -> Survey:
        """How the servers stand; those of `evercache up` by the names of their processes."""
        return survey(self.targets) if self.deployment is None else self.deployment.status().survey

    def check(self) -> Survey:
        """DrillRefused unless all is whole and in sync, with a replica to spare."""
        how = "" if self.deployment is None else ": `evercache up` repairs what it can"
        if self.deployment is not None and not self.deployment.status().running:
            option = "" if self.name == "default" else f" --name {self.name}"
            raise DrillRefused(f"deployment {self.name!r} does not run: start it with `evercache up{option}`")
        seen = self.look()
        problems = list(seen.problems)
        if not seen.settled:
            problems.append("a failover is under way, or the sentinels disagree")
        if not any(node.role == "replica" and node.in_sync for node in seen.nodes):
            problems.append("there is no replica in sync, so nothing could take over")
        if problems:
            said = "\n".join(f"  - {problem}" for problem in problems)
            raise DrillRefused(
                f"no drill now, nothing was changed{how}. It begins when all is whole, so that what it shows is "
                f"its own doing:\n{said}"
            )
        if self.deployment is None:
            Failover(self.targets).check()
        return seen

    def replaced_within(self) -> float:
        """The seconds in which the sentinels are to have replaced a master.

        That is the time after which it counts as down, and what they have for two tries.
        """
        if self.deployment is None:
            return 10.0
        config = self.deployment.config
        return (config.down_after_ms + 2 * config.failover_timeout_ms) / 1000
