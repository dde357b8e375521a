"""Three hosts as network namespaces, set up from rendered files alone, and an application on a fourth."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tests.faults.fleet import fleet
from tests.faults.judge import Bounds, Figures, Phases, judge
from tests.faults.stage import Access
from tests.namespaces import Host, Network, namespaces_work
from tests.nursery import ROOT
from tests.real.rendered import Rendered, described
from tests.servers import wait_for

#: An application, as a program: for each number that it is told it calls a function for so many keys, and says how
#: often that ran.
SITE = """
import json, sys, time
from evercache import Cache
cache = Cache(sys.argv[1], namespace="faults")
ran = 0
@cache.cached(ttl=3600)
def page(key):
    global ran
    ran += 1
    return {"key": key}
for line in sys.stdin:
    ran = 0
    for key in range(int(line)):
        assert page(key) == {"key": key}
    print(json.dumps(ran), flush=True)
"""

#: The command `evercache`, as often as it is told to: an interpreter for each would take most of the test.
OPERATOR = """
import sys
from evercache.ops.cli import main
for line in sys.stdin:
    main(line.split())
    print("END", flush=True)
"""


class Hosts(Rendered):
    """As `Rendered`, each host in a namespace of its own, and the application on the last one."""

    network: Network
    _operator: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def on(cls, folder: Path, kind: str, *, tls: bool) -> Iterator[Hosts]:
        with Network(4) as network:
            more: dict[str, Any] = {
                "hosts": [{"name": f"cache-{host.number}", "address": host.address} for host in network.hosts[:3]],
                "ports": {"node": 6379, "sentinel": 26379},
                "application": {"namespace": "faults"},
                "sentinel": {"down_after_ms": 1000},
            }
            if tls:
                more["tls"] = {"enabled": True, "client_folder": str(folder / "rendered" / "ca")}
            made = cls(folder, described(folder, kind, **more))
            made.network = network
            made.render(certificates=tls)
            for host in network.hosts[:3]:
                made.install(f"cache-{host.number}")
                made.power(host)
            words = [sys.executable, "-c", OPERATOR]
            made._operator = made.site.start(
                words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            with made._operator:
                made.wait_whole()
                yield made

    @property
    def site(self) -> Host:
        return self.network.hosts[3]

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.site.name]

    def power(self, host: Host) -> None:
        """The host boots: its Supervisor starts what it was told to."""
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-n"]
        host.start([*command, "-c", str(self._conf(f"cache-{host.number}"))], stdout=subprocess.DEVNULL)

    def status(self) -> dict[str, Any]:
        """`evercache status`, from the fourth host."""
        given, told = self._operator.stdin, self._operator.stdout
        assert given is not None
        assert told is not None
        given.write(f"status --json --url {self.url('operator')}\n")
        found: dict[str, Any] = json.loads("".join(iter(told.readline, "END\n")))
        return found

    def wait_whole(self, timeout: float = 60) -> None:
        wait_for(lambda: not self.status()["problems"], timeout, "the hosts to be whole", 0.3)

    def master_host(self) -> Host:
        named = self.status()["master"]
        return next(host for host in self.network.hosts if named.startswith(f"{host.address}:"))

    def access(self, group: str) -> Access:
        return Access(self.url("application"), {}, {})

    def trial(self, name: str, wrong: AbstractContextManager[None], seconds: float, bounds: Bounds) -> Figures:
        """What an application in two processes of 8 threads, and one that edits, meet while something is wrong."""
        with fleet(self, "threads", prefix=self.prefix, ease=4) as load:
            time.sleep(1.0)
            fault = time.monotonic()
            with wrong:
                time.sleep(seconds)
            mended = time.monotonic()
            self.wait_whole()
            time.sleep(1.5)
            return judge(name, "threads", bounds, Phases(fault, mended, time.monotonic()), load.stop())

    @contextmanager
    def lost(self, host: Host) -> Iterator[None]:
        """A host without power, and then with it again."""
        with self.network.cut_off(host):
            host.kill()
            yield
        self.power(host)


needs_namespaces = pytest.mark.skipif(bool(WHY_NOT := namespaces_work()), reason=WHY_NOT or "they work")
#: A host that dies takes what it had just acknowledged along, until it is replayed at the next master.
DYING = Bounds(dying=True)
#: What the files are for, on a machine busy with other tests: promises of milliseconds have tests of their own.
LOOSE = Bounds(beyond=1.0, stale=1.0, dying=True)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a short name: it holds the sockets of Supervisors."""
    return tmp_path_factory.mktemp("ns")


def kept(figures: Figures) -> None:
    times = f"{figures.beyond:.3f} s beyond the function, {figures.stale:.3f} s stale"
    print(f"{figures.fault}: {figures.reads_in_fault} reads, {times}, {figures.exceptions} errors")
    assert not figures.breaches, figures.breaches


@needs_namespaces
def test_the_master_host_is_lost(folder: Path) -> None:
    with Hosts.on(folder, "valkey", tls=False) as hosts:
        host = hosts.master_host()
        kept(hosts.trial("loss of the master", hosts.lost(host), 5, LOOSE))
        assert hosts.master_host() is not host


@pytest.mark.long
@pytest.mark.timeout(600)
@needs_namespaces
@pytest.mark.parametrize(("kind", "tls"), [("valkey", False), ("redis7", True)], ids=["open", "tls"])
def test_every_host_every_link_and_all_at_once(folder: Path, kind: str, tls: bool) -> None:
    with Hosts.on(folder, kind, tls=tls) as hosts:
        machines = hosts.network.hosts[:3]
        for host in machines:
            kept(hosts.trial(f"loss of {host.address}", hosts.lost(host), 6, DYING))
        for one, other in combinations(machines, 2):
            between = hosts.network.cut_between(one, other)
            kept(hosts.trial(f"no way between {one.address} and {other.address}", between, 6, DYING))
        keys = 2000
        site = hosts.site.start(
            [sys.executable, "-c", SITE, hosts.url("application")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert site.stdin is not None
        assert site.stdout is not None

        def ran() -> int:
            site.stdin.write(b"%d\n" % keys)
            site.stdin.flush()
            return int(site.stdout.readline())

        assert ran() == keys
        assert ran() == 0
        time.sleep(2)  # appendfsync everysec
        for host in machines:
            host.kill()
        for host in machines:
            hosts.power(host)
        hosts.wait_whole()
        again = ran()
        print(f"all three restarted: {again} of {keys} computed")
        assert again <= keys // 100
        site.kill()
        site.communicate()
