"""A real deployment on one's own machine: one master, replicas, three sentinels, under Supervisor."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from evercache.errors import (
    DeploymentError,
    DeploymentUnknown,
    DiskFull,
    NotWhole,
    PortTaken,
    UnavailableError,
)
from evercache.net.types import ConnectionOptions, Credentials
from evercache.ops.binary import find_server
from evercache.ops.config import HOST, DeploymentConfig, port_is_free
from evercache.ops.files import check_room, disk_errors
from evercache.ops.supervision import ProcessState, Supervision, end_orphans, end_strays, strays, wait_until
from evercache.ops.survey import NodeReport, SentinelReport, Survey, Targets, ask, survey
from evercache.protocol.types import Address

__all__ = ["DeploymentStatus", "LocalDeployment"]

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """A local deployment at one moment: what its servers say, and its processes where they say nothing."""

    name: str
    running: bool
    survey: Survey

    @property
    def whole(self) -> bool:
        """Whether everything runs and is in sync."""
        return self.running and self.survey.whole


class LocalDeployment:
    """One deployment by its name. Holds nothing but what is on the disk; processes share it by a file lock.

    Every method raises `DeploymentError` or one of its kinds, whose message says what to do.
    """

    def __init__(self, name: str, folder: Path, server: Path | None, memory: str) -> None:
        self.name = name
        self.folder = folder
        self._server = server
        self._memory = memory
        self._supervision = Supervision(folder, name)

    def __repr__(self) -> str:
        return f"<LocalDeployment {self.name} {self.folder}>"

    @classmethod
    def open(
        cls, name: str, home: Path | None = None, *, server: Path | None = None, memory: str = "256mb"
    ) -> LocalDeployment:
        """The deployment of this name below `home` (see `ops.config.home_folder`); starts and writes nothing.

        `server` (a program) and `memory` (of each data node, like "256mb") count when `up` makes a new one.
        """
        return cls(name, DeploymentConfig.locate(name, home), server, memory)

    @property
    def exists(self) -> bool:
        """Whether it was ever brought up and not purged since."""
        return DeploymentConfig.load(self.folder) is not None

    @property
    def config(self) -> DeploymentConfig:
        """What is remembered of it; `DeploymentUnknown` before the first `up`."""
        config = DeploymentConfig.load(self.folder)
        if config is None:
            option = "" if self.name == "default" else f" --name {self.name}"
            raise DeploymentUnknown(f"there is no deployment {self.name!r}: run `evercache up{option}`")
        return config

    @property
    def url(self) -> str:
        """The URL for `Cache(...)`, with its passwords."""
        return self.config.url

    def up(self, progress: Progress | None = None) -> None:
        """Bring it up and wait until it is whole; see `bring_up`."""
        self.bring_up(progress)

    def bring_up(self, progress: Progress | None = None, timeout: float = 60.0) -> tuple[str, ...]:
        """Create what does not exist, start what does not run, thaw what is frozen, wait until all is whole.

        Returns the names of the nodes that were started or thawed: none if it was running. If this call
        started Supervisor and fails or is interrupted, it stops everything again. `NotWhole` after
        `timeout` seconds.
        """
        say = progress or _silent
        with self._locked(), disk_errors(self.folder):
            fresh = not self._supervision.running()
            try:
                config = self._configured(say)
                if fresh:
                    self._start_supervisor(config, say)
                started = self._start_missing(config, say)
                self._wait_whole(config, say, timeout)
            except BaseException:
                if fresh:
                    if self.exists:
                        wait_until(self._supervision.running, 1)  # it may have been on its way
                        self._stop_everything()
                        say("given up: what had been started is stopped, nothing runs")
                else:
                    say("left as it is; `evercache status` shows it")
                raise
            return started

    def down(self, purge: bool = False) -> None:
        """Stop everything politely; with `purge` also remove its data, ports and passwords.

        Of a deployment whose folder is gone, what still runs is ended.
        """
        home = self.folder.parent
        if not self.exists and self.name in strays(home):
            with self._locked():
                end_strays(home, self.name)
                if purge:
                    shutil.rmtree(self.folder, ignore_errors=True)
            return
        config = self.config
        with self._locked():
            self._stop_everything()
            end_orphans(config)
            end_strays(home, self.name)  # a Supervisor whose socket was removed
            if purge:
                shutil.rmtree(self.folder)

    def status(self) -> DeploymentStatus:
        """Ask every node; a dead or frozen one is said to be so."""
        config = self.config
        seen = survey(self._targets(config))
        processes = self._supervision.processes()
        nodes = tuple(_with_process(node, processes.get(node.name)) for node in seen.nodes)
        sentinels = tuple(_sentinel_with_process(one, processes.get(one.name)) for one in seen.sentinels)
        return DeploymentStatus(self.name, bool(processes), replace(seen, nodes=nodes, sentinels=sentinels))

    def kill(self, node: str) -> None:
        """SIGKILL a node; it stays dead until `start` or `up`."""
        self.config.node(node)
        self._supervision.kill_node(node)

    def freeze(self, node: str) -> None:
        """SIGSTOP a node: its connections stay, nothing answers."""
        self._signal(node, "STOP")

    def thaw(self, node: str) -> None:
        """SIGCONT a node."""
        self._signal(node, "CONT")

    def start(self, node: str) -> None:
        """Start a node that is dead, and wait until it answers; nothing if it runs."""
        config = self.config
        target = config.node(node)
        with disk_errors(self.folder):
            running = self._supervision.processes().get(node)
            if running is None or not running.alive:
                if not target.sentinel:
                    # A master that comes back in the middle of its failover may set off another one.
                    wait_until(lambda: survey(self._targets(config)).settled, 5, 0.05)
                self._check_port(config, node)
                self._follow_primary(config, [node])
                self._supervision.start_node(node)
        options = self._options(config, target.sentinel)

        def answers() -> bool:
            self._raise_if_failed(config, [node])
            with suppress(UnavailableError):
                return bool(ask(Address(HOST, target.port), options, ("PING",)))
            return False

        if not wait_until(answers, 30):
            raise NotWhole(f"{node} does not answer after 30 s: see `evercache logs {node}`")

    def add_replica(self) -> str:
        """Start one data node more, wait until it is in sync (the sentinels notice it within 10 s)."""
        with self._locked(), disk_errors(self.folder):
            config = self.config
            check_room(self.folder)
            master = config.node(self.master_node())
            config = config.with_replica()
            added = config.data_nodes[-1]
            config.write_data_node(added, master)
            config.write_supervisor()
            config.save()
            self._supervision.add_node(added.name)
            self.start(added.name)

            def in_sync() -> bool:
                seen = survey(replace(self._targets(config), sentinels={}))
                return any(node.name == added.name and node.in_sync for node in seen.nodes)

            if not wait_until(in_sync, 60, 0.05):
                raise NotWhole(f"{added.name} is not in sync after 60 s: see `evercache logs {added.name}`")
            return added.name

    def master_node(self) -> str:
        """The data node that the sentinels name as master (it may just have died)."""
        found = survey(self._targets(self.config)).master_name
        if found is None:
            raise NotWhole("no sentinel answers, so the master is unknown: run `evercache up`")
        return found

    def replica_nodes(self) -> list[str]:
        """The data nodes that answer as replicas now."""
        return [node.name for node in survey(self._targets(self.config)).nodes if node.role == "replica"]

    def stop_all(self) -> None:
        """Stop all data nodes and sentinels politely, the sentinels first so that they promote nobody."""
        config = self.config
        with self._locked():
            self._stop_nodes(config)

    def start_all(self, progress: Progress | None = None) -> None:
        """Start all data nodes and sentinels that are stopped, wait until all is whole."""
        self.bring_up(progress)

    def restart_all(self, progress: Progress | None = None) -> None:
        """`stop_all`, then `start_all`."""
        self.stop_all()
        self.start_all(progress)

    def log_file(self, node: str) -> Path:
        """Where the output of a node is kept."""
        config = self.config
        return config.log_file(config.node(node).name)

    # -- what the methods above are made of ------------------------------------------------------------------

    @contextmanager
    def _locked(self, timeout: float = 90.0) -> Iterator[None]:
        """One command at a time on a deployment; a file lock, so that it ends with the process."""
        with disk_errors(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            # Beside the folder, which `purge` removes.
            descriptor = os.open(self.folder.parent / f".{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:

            def locked() -> bool:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

            if not wait_until(locked, timeout, 0.1):
                raise DeploymentError(
                    f"another evercache command works on deployment {self.name!r}: wait for its end"
                )
            yield
        finally:
            os.close(descriptor)

    def _configured(self, say: Progress) -> DeploymentConfig:
        config = DeploymentConfig.load(self.folder)
        if config is None:
            config = DeploymentConfig.create(self.name, self.folder, find_server(self._server), self._memory)
            config.write_files()
            say(f"created {self.folder}")
            return config
        check_room(self.folder)
        if self._server is not None or not config.server.exists():
            config = replace(config, server=find_server(self._server))
            config.write_runner()
            config.save()
            say(f"the server is now {config.server}")
        return config

    def _start_supervisor(self, config: DeploymentConfig, say: Progress) -> None:
        if orphans := end_orphans(config):
            say(f"Supervisor had died: ended {', '.join(orphans)}, to start them anew")
        for node in config.nodes:
            self._check_port(config, node.name)
        config.write_runner()  # those of an earlier version told a death in another way
        config.write_supervisor()
        self._supervision.start()

    def _start_missing(self, config: DeploymentConfig, say: Progress) -> tuple[str, ...]:
        processes = self._supervision.processes()
        names = [node.name for node in config.nodes]
        for name in names:
            if name not in processes:  # an add_replica was cut off between two steps
                config.write_supervisor()
                self._supervision.add_node(name)
        frozen = [name for name in names if name in processes and processes[name].frozen]
        dead = [name for name in names if name not in processes or not processes[name].alive]
        for name in frozen:
            self._supervision.signal_node(name, "CONT")
        for name in dead:
            self._check_port(config, name)
        self._follow_primary(config, dead)
        for name in dead:
            self._supervision.start_node(name)
        for word, some in (("thawed", frozen), ("started", dead)):
            if some:
                say(f"{word} {', '.join(some)}")
        return (*frozen, *dead)

    def _follow_primary(self, config: DeploymentConfig, names: Sequence[str]) -> None:
        """Have dead data nodes follow whom more than half of the sentinels name, as rendered ones do (`Asking`)."""
        named = Counter(one.master for one in survey(self._targets(config)).sentinels if one.master is not None)
        for place, count in named.most_common(1):
            for primary in config.data_nodes:
                if primary.port == place.port and 2 * count > len(config.sentinels):
                    for node in config.data_nodes:
                        if node.name in names and node is not primary:
                            config.follow(node, primary)

    def _check_port(self, config: DeploymentConfig, name: str) -> None:
        port = config.node(name).port
        # A server that was just killed may hold its port for a moment longer.
        if not wait_until(lambda: port_is_free(port), 1.0):
            raise PortTaken(
                f"port {port} of {name} is taken by another program: end that program, or give the "
                "deployment up and take new ports with `evercache down --purge`, then `evercache up`"
            )

    def _wait_whole(self, config: DeploymentConfig, say: Progress, timeout: float) -> None:
        names, end, said = [node.name for node in config.nodes], time.monotonic() + timeout, ""
        while True:
            self._raise_if_failed(config, names)
            seen = survey(self._targets(config))
            if seen.whole:
                return
            done = sum(node.use != "nothing" for node in seen.nodes)
            text = f"{done} of {len(seen.nodes)} nodes in use; waiting for {seen.problems[0]}"
            if text != said:
                say(text)
                said = text
            if time.monotonic() > end:
                raise NotWhole(
                    f"not whole after {timeout:.0f} s: {'; '.join(seen.problems)}; see `evercache logs NODE`"
                )
            time.sleep(0.1)

    def _raise_if_failed(self, config: DeploymentConfig, names: Sequence[str]) -> None:
        """A process that Supervisor saw end while it should run: say why, by the end of its log."""
        processes = self._supervision.processes()
        for name in names:
            if name in processes and processes[name].state in {"BACKOFF", "FATAL", "EXITED"}:
                tail = _tail(config.log_file(name))
                if "No space left" in tail:
                    raise DiskFull(f"{name} ended as the disk of {self.folder} is full: make room")
                if "in use" in tail:
                    self._check_port(config, name)
                raise NotWhole(f"{name} ended right after its start; the end of its log:\n{tail}")

    def _stop_everything(self) -> None:
        # A Supervisor that has read no state file has started nothing.
        if self.exists and self._supervision.running():
            self._stop_nodes(self.config)
            self._supervision.shut_down()

    def _stop_nodes(self, config: DeploymentConfig) -> None:
        for group in (config.sentinels, config.data_nodes):
            self._supervision.stop_politely([node.name for node in group])

    def _signal(self, node: str, name: str) -> None:
        self.config.node(node)
        if not self._supervision.signal_node(node, name):
            raise DeploymentError(f"{node} does not run: start it with `evercache start {node}`")

    def _options(self, config: DeploymentConfig, sentinel: bool) -> ConnectionOptions:
        secret = config.sentinel_password if sentinel else config.password
        return ConnectionOptions(Credentials(None, secret), client_name="evercache-ops", sentinel=sentinel)

    @property
    def targets(self) -> Targets:
        """Whom to ask for its state; DeploymentUnknown."""
        return self._targets(self.config)

    def _targets(self, config: DeploymentConfig) -> Targets:
        return Targets(
            {node.name: Address(HOST, node.port) for node in config.data_nodes},
            self._options(config, False),
            {node.name: Address(HOST, node.port) for node in config.sentinels},
            self._options(config, True),
            config.service,
        )


def _silent(_: str) -> None:
    pass


def _tail(path: Path, lines: int = 12) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(it has none)"


def _process_word(process: ProcessState | None) -> str | None:
    if process is None or not process.alive:
        return "dead"
    return "frozen" if process.frozen else None


def _with_process(node: NodeReport, process: ProcessState | None) -> NodeReport:
    word = _process_word(process)
    if word is None or node.state == "up":
        return node
    return replace(node, state=word, reason=f"it is {word}")


def _sentinel_with_process(one: SentinelReport, process: ProcessState | None) -> SentinelReport:
    word = _process_word(process)
    if word is None or one.state == "up":
        return one
    return replace(one, state=word, detail=f"it is {word}")
