"""`evercache drill` on servers of `evercache up`: what it reports, and that everything is whole afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.real.test_docs_acl import documented
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.errors import DeploymentUnknown, DrillRefused
from evercache.ops.cli import main
from evercache.ops.drill import Answer, Drill, Options, files, restore
from evercache.ops.drill.guardian import State, forget, one_at_a_time
from evercache.ops.drill.plan import LOCAL
from evercache.ops.drill.records import Written
from evercache.ops.local import LocalDeployment
from evercache.ops.supervision import process_command
from evercache.ops.survey import ask, survey

#: Seconds for everything to be whole again, also on a machine that is busy.
BACK = 60.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shared(home: Path) -> Iterator[LocalDeployment]:
    deployment = LocalDeployment.open("default", home)
    try:
        deployment.up()
        with Cache(deployment.url, namespace="mine") as cache:
            assert cache.set("k", "v", ttl=3600)
        yield deployment
    finally:
        with contextlib.suppress(DeploymentUnknown):
            deployment.down(purge=True)


@pytest.fixture
def local(shared: LocalDeployment, home: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDeployment:
    """The module's deployment; nothing may be left of a drill after the test."""
    monkeypatch.setenv("EVERCACHE_HOME", str(home))
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    restore(shared)
    shared.bring_up()
    return shared


def keys(deployment: LocalDeployment) -> set[str]:
    """The namespaces of all keys at the master."""
    master = survey(deployment.targets).master
    assert master is not None
    (found,) = ask(master, deployment.targets.node_options, ("KEYS", "*"), timeout=5)
    return {key.decode().replace("~", ":").split(":")[0] for key in found}


def helpers(deployment: LocalDeployment) -> dict[int, str]:
    """The guardians of drills of this deployment, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and "evercache.ops.drill.guardian" in (command := process_command(int(entry.name))):
            with contextlib.suppress(OSError):
                if (entry / "cwd").resolve() == deployment.folder.resolve():
                    found[int(entry.name)] = command
    return found


def assert_all_is_back(deployment: LocalDeployment) -> None:
    """Whole, nothing frozen, no key, no file and no process of the drill."""
    wait_for(lambda: not helpers(deployment), BACK, "the guardian to end")
    seen = deployment.status()
    assert seen.whole, seen.survey.problems
    assert not any(one.frozen for one in deployment._supervision.processes().values())
    assert keys(deployment) == {"mine"}
    assert State(deployment).read() is None
    with Cache(deployment.url, namespace="mine") as cache:
        assert cache.get("k") == "v"


def test_a_short_drill_measures_reports_and_leaves_nothing(
    local: LocalDeployment, home: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    out = tmp_path / "a new" / "folder"
    options = Options("default", home, steps=("freeze-replica",), hold=1.2, calm=0.8, out=out, processes=2)
    report = Drill(options, lambda step, does: Answer.yes, said.append).run()
    assert [step.state for step in report.steps] == ["done"]
    figures = report.steps[0].figures
    assert figures is not None
    assert figures.errors == 0
    assert figures.reads > 50
    assert figures.reads_in_fault > 20
    assert figures.edits > 3
    assert figures.lost == 0
    assert [mark.kind for mark in report.steps[0].marks] == ["fault", "undone", "whole"]
    assert any("is frozen" in text for text in said)
    page, document = files(out)
    found = json.loads(document.read_text())
    assert found["state"] == report.state
    assert found["steps"][0]["figures"]["reads"] == figures.reads
    assert sum(one["hits"] + one["computed"] for one in found["steps"][0]["figures"]["series"]) > 50
    for text in (page.read_text(), document.read_text()):
        assert local.config.password not in text
        assert local.config.sentinel_password not in text
    assert "A replica is frozen" in page.read_text()
    assert_all_is_back(local)


def test_it_is_refused_where_it_would_show_nothing_or_do_harm(
    local: LocalDeployment, tmp_path: Path, capsys: pytest.CaptureFixture[str], valkey: Server
) -> None:
    out = ["--yes", "--out", str(tmp_path)]
    assert main(["drill", *out, "--name", "nosuch"]) == 3
    assert main(["drill", *out, "--step", "nosuch"]) == 2
    assert "use kill-master" in capsys.readouterr().err
    assert main(["drill", *out, "--url", local.url, "--step", "kill-master"]) == 2
    assert "servers of `evercache up` only" in capsys.readouterr().err
    assert main(["drill", *out, "--url", valkey.url]) == 8
    assert "no Sentinel" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["drill", "--yes", "--out", str(tmp_path / "file" / "below")]) == 8
    assert "choose another --out" in capsys.readouterr().err
    frozen = local.replica_nodes()[0]
    local.freeze(frozen)
    assert main(["drill", *out]) == 8
    assert f"{frozen}: it is frozen" in capsys.readouterr().err
    local.thaw(frozen)
    second = Drill(Options("default", local.folder.parent, out=tmp_path), lambda step, does: Answer.yes)
    with one_at_a_time(local), pytest.raises(DrillRefused, match="is under way"):
        second.run()
    with one_at_a_time(local):
        assert main(["drill", *out]) == 8
        assert "is under way" in capsys.readouterr().err
    assert_all_is_back(local)


def test_only_the_keys_of_the_drill_are_removed(local: LocalDeployment) -> None:
    with Cache(local.url, namespace="drill-ab") as ours, Cache(local.url, namespace="drill-abc") as other:
        assert ours.set("k", "v", ttl=60)
        assert other.set("k", "v", ttl=60)
    assert forget(local.targets, "drill-ab") > 1
    assert keys(local) == {"mine", "drill-abc"}
    assert forget(local.targets, "drill-abc") > 1
    assert keys(local) == {"mine"}


# -- the rest takes long, and is run by `make long`


class Running:
    """The command in a process, whose messages are read line by line."""

    def __init__(self, home: Path, out: Path, *arguments: str, answers: bool = False) -> None:
        self.out = out
        command = [sys.executable, "-m", "evercache", "drill", "--out", str(out), "--seconds", "3", *arguments]
        self.process = subprocess.Popen(
            command if answers else [*command, "--yes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "EVERCACHE_HOME": str(home)},
            start_new_session=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            # Letter by letter: a question ends no line.
            self.said.extend(iter(lambda: self.process.stderr.read(1), ""))

    def until(self, word: str, timeout: float = 60.0) -> None:
        def heard() -> bool:
            assert self.process.poll() is None or word in "".join(self.said), "".join(self.said)
            return word in "".join(self.said)

        wait_for(heard, timeout, f"{word!r} to be said")

    def answer(self, *answers: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{answer}\n" for answer in answers))
        self.process.stdin.flush()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 120.0) -> str:
        code = self.process.wait(timeout)
        self.close()
        return f"exit code {code}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        if not self.process.stdout.closed:
            print("".join(self.said), self.process.stdout.read())
            self.process.stdout.close()

    @property
    def document(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(files(self.out)[1].read_text())
        return found


Begin = Callable[..., Running]


@pytest.fixture
def begin(local: LocalDeployment, home: Path, tmp_path: Path) -> Iterator[Begin]:
    """Starts the command; what still runs after the test is ended."""
    started: list[Running] = []

    def start(*arguments: str, answers: bool = False) -> Running:
        started.append(Running(home, tmp_path, *arguments, answers=answers))
        return started[-1]

    yield start
    for one in started:
        one.close()
    wait_for(lambda: not helpers(local), BACK, "the guardian to end")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_whole_drill(local: LocalDeployment, begin: Begin, tmp_path: Path) -> None:
    running = begin()
    code = running.end(250)
    found = running.document
    # A machine that runs tests may be too busy to judge; no promise may be broken on it.
    assert (code, found["state"]) in {("exit code 0", "kept"), ("exit code 10", "unjudged")}
    steps = found["steps"]
    assert isinstance(steps, list)
    assert [step["name"] for step in steps] == list(LOCAL)
    assert all(step["state"] == "done" and step["kept"] is not False for step in steps)
    assert [step["figures"]["promotion"] is not None for step in steps] == [True, True, False, False, False]
    assert steps[4]["figures"]["warmth"]["before"] > 200
    assert_all_is_back(local)


#: What is said when a fault is being put back.
BEING_BACK = {
    "kill-master": "is started again",
    "pause-master": "goes on\n",
    "freeze-replica": "goes on\n",
    "cut-sentinel": "is started anew\n",
    "restart-all": "all servers run",
}


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("moment", ["before", "during", "after"])
@pytest.mark.parametrize("step", LOCAL)
def test_ctrl_c_at_each_step(local: LocalDeployment, begin: Begin, tmp_path: Path, step: str, moment: str) -> None:
    running = begin("--step", step)
    running.until({"before": "1/1", "during": "  0.0 s  ", "after": BEING_BACK[step]}[moment])
    if moment == "after":
        time.sleep(0.3)
    running.interrupt()
    assert running.end() == "exit code 130"
    assert "Traceback" not in "".join(running.said)
    assert running.document["state"] == "interrupted"
    assert "Interrupted." in files(tmp_path)[0].read_text()
    assert_all_is_back(local)


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("late", [0.0, 0.15, 0.3, 0.6])
def test_ctrl_c_while_everything_is_being_stopped(
    local: LocalDeployment, begin: Begin, tmp_path: Path, late: float
) -> None:
    """Servers that are on their way out run still, and then do not."""
    running = begin("--step", "restart-all")
    before = len(local._supervision.processes())
    running.until("1/1")
    wait_for(lambda: sum(one.alive for one in local._supervision.processes().values()) < before, 20)
    time.sleep(late)
    running.interrupt()
    assert running.end() == "exit code 130"
    assert_all_is_back(local)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_sigterm_and_a_closed_terminal_are_the_same(local: LocalDeployment, begin: Begin, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        running = begin("--step", "freeze-replica")
        running.until("0.0 s  ")
        running.interrupt(number)
        assert running.end() == "exit code 130"
        assert running.document["state"] == "interrupted"
        assert_all_is_back(local)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_second_ctrl_c_changes_nothing_and_a_third_leaves_it_to_the_guardian(
    local: LocalDeployment, begin: Begin, tmp_path: Path
) -> None:
    for times in (2, 3):
        running = begin("--step", "pause-master")
        running.until("is frozen\n")
        running.until("is the master")
        running.interrupt()
        running.until("interrupted: everything is put back")
        for _ in range(times - 1):
            time.sleep(0.2)
            running.interrupt()
        assert running.end() == "exit code 130"
        if times == 2:
            assert "everything is being put back first; once more" in "".join(running.said)
            assert running.document["state"] == "interrupted"
        else:
            assert "a process in the background puts the rest back" in "".join(running.said)
        assert "Traceback" not in "".join(running.said)
        assert_all_is_back(local)


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("step", ["kill-master", "pause-master", "restart-all"])
def test_a_drill_that_is_killed_is_put_back_by_its_guardian(
    local: LocalDeployment, begin: Begin, tmp_path: Path, step: str
) -> None:
    running = begin("--step", step)
    running.until("0.0 s  ")
    state = State(local).read()
    assert state is not None
    clients = [int(path.name.partition("-")[2]) for path in Path(state["scratch"]).glob("records-*")]
    assert len(clients) == 3
    running.interrupt(signal.SIGKILL)
    running.end()
    wait_for(lambda: not any(process_command(pid) for pid in clients), 10, "the clients to end")
    assert_all_is_back(local)
    assert "everything is back" in (local.folder / "logs" / "drill.log").read_text()
    assert not Path(state["scratch"]).exists()


@pytest.mark.long
@pytest.mark.timeout(150)
def test_when_the_guardian_is_killed_too(
    local: LocalDeployment, begin: Begin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`evercache status` says what is not well, `up` mends the servers, `--restore` removes the keys too."""
    running = begin("--step", "pause-master")
    running.until("0.0 s  ")
    (guardian,) = helpers(local)
    os.kill(guardian, signal.SIGKILL)
    running.interrupt(signal.SIGKILL)
    running.end()
    assert main(["status"]) == 1
    assert "it is frozen" in capsys.readouterr().out
    assert main(["up"]) == 0
    assert local.status().whole
    assert any(name.startswith("drill-") for name in keys(local))
    assert main(["drill", "--restore"]) == 0
    assert "everything is back" in capsys.readouterr().err
    assert main(["drill", "--restore"]) == 0
    assert "no drill has left anything" in capsys.readouterr().err
    assert_all_is_back(local)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_questions(local: LocalDeployment, begin: Begin, tmp_path: Path) -> None:
    """A step that is skipped, one that is done, and the end before the third; and a question nobody answers."""
    steps = [word for step in ("kill-master", "freeze-replica", "cut-sentinel") for word in ("--step", step)]
    running = begin(*steps, answers=True)
    running.answer("what?", "skip", "y", "quit")
    assert running.end() == "exit code 130"
    found = running.document["steps"]
    assert isinstance(found, list)
    assert [step["state"] for step in found] == ["skipped", "done", "left out"]
    assert_all_is_back(local)
    running = begin("--step", "kill-master", answers=True)
    running.until("Go on?")
    assert running.process.stdin is not None
    running.process.stdin.close()
    assert running.end() == "exit code 130"
    assert "0.0 s" not in "".join(running.said)
    assert "give --yes" in "".join(running.said)
    assert running.document["state"] == "interrupted"
    assert_all_is_back(local)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_servers_behind_a_url_hand_over(deployment: Deployment, tmp_path: Path) -> None:
    """By a user that may do what the documents say, and no more."""
    _, *rules = documented()
    rules = [rule for rule in rules if not rule.startswith("~")]
    more = ["~drill-*", "+scan", "+client|pause", "+client|unpause", "+replicaof"]
    for node in deployment.nodes:
        assert node.cli("ACL", "SETUSER", "drill", *rules, *more) == "OK"
    before = deployment.master()
    url = deployment.url.replace(":node-secret@", "drill:secret@")
    options = Options(url=url, hold=2.0, calm=1.0, out=tmp_path, processes=2)
    report = Drill(options, lambda step, does: Answer.yes).run()
    assert report.state in {"kept", "unjudged"}, [one for one in report.promises if not one.kept]
    assert [(step.name, step.state) for step in report.steps] == [("hand-over", "done")]
    assert report.steps[0].figures is not None
    assert report.steps[0].figures.promotion is not None
    after = deployment.master()
    assert after is not before
    assert after.cli("KEYS", "drill-*") == []
    for text in (path.read_text() for path in files(tmp_path)):
        assert "secret" not in text


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_client_that_dies_ends_the_drill(local: LocalDeployment, begin: Begin, tmp_path: Path) -> None:
    running = begin("--step", "freeze-replica", "--step", "cut-sentinel")
    running.until("0.0 s  ")
    state = State(local).read()
    assert state is not None
    client = next(Path(state["scratch"]).glob("records-*"))
    os.kill(int(client.name.partition("-")[2]), signal.SIGKILL)
    assert running.end() == "exit code 1"
    assert running.document["state"] == "failed"
    assert "a client of the drill ended by itself" in files(tmp_path)[0].read_text()
    assert_all_is_back(local)


# -- whose fault it is


def scratch_of(deployment: LocalDeployment) -> Path:
    """Where the clients of the drill under way write their records."""
    state = State(deployment).read()
    assert state is not None
    return Path(state["scratch"])


@pytest.mark.long
@pytest.mark.timeout(150)
def test_calls_that_the_machine_held_up_are_not_judged(
    local: LocalDeployment, begin: Begin, tmp_path: Path
) -> None:
    """The load's processes are frozen for half a second, until that is in the middle of a call."""
    running = begin("--step", "freeze-replica", "--seconds", "20")
    running.until("is frozen\n")
    folder, end = scratch_of(local), time.monotonic() + 15
    clients = [int(path.name.partition("-")[2]) for path in folder.glob("records-*")]
    assert len(clients) == 3
    while time.monotonic() < end:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in clients:
                os.kill(pid, number)
            time.sleep(0.5)
        if any(call.ended - call.began > 0.45 for call in Written.read(folder).calls):
            break
    assert running.end() == "exit code 10"
    assert "NOT JUDGED: " in "".join(running.said)
    assert running.document["state"] == "unjudged"
    page = files(tmp_path)[0].read_text()
    assert "The machine was too busy to judge." in page
    assert "the machine stood still for" in page
    assert_all_is_back(local)


#: Read by every Python that starts with it on its path: in the clients of a drill some changes by tag take long,
#: and nothing else runs in the process meanwhile.
LATE = """
import sys
if "evercache.ops.drill.client" in sys.orig_argv:
    from evercache import Cache
    prompt, calls = Cache.invalidate_tag, []
    def late(self, *args, **kwargs):
        calls.append(args)
        if len(calls) % 4 == 0:
            sum(range(60_000_000))
        return prompt(self, *args, **kwargs)
    Cache.invalidate_tag = late
"""


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_cache_that_is_late_is_no_fault_of_the_machine(
    local: LocalDeployment, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    running = begin("--step", "freeze-replica")
    assert running.end() == "exit code 1"
    assert "BROKEN: No page waits longer for the cache than its budget" in "".join(running.said)
    assert running.document["state"] == "broken"
    assert_all_is_back(local)
