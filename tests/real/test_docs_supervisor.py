"""The page on Supervisor, walked: each command in its order, on three machines that are folders of this one."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.real.supervisor_walk import PAGE, Walk, blocks, outputs, section, shapes
from tests.servers import wait_for

from evercache.ops import deploy

#: In the order of the page.
SECTIONS = re.findall(r"^##+ (.+)$", re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S), re.M)
EACH, MASTERS = "each host", "the master's host"
PASSWORDS = {role: f"{role}-password-0123456789" for role in deploy.ROLES}


def done(run: subprocess.CompletedProcess[str], *, code: int = 0) -> str:
    assert run.returncode == code, f"{run.args}: {run.returncode}\n{run.stdout}{run.stderr}"
    return run.stdout + run.stderr


def follow(walk: Walk, title: str, **hosts: list[str]) -> list[str]:
    """Run the commands of a section; what each printed."""
    said = []
    for block in blocks(section(title)):
        names = hosts.get(block.where.split()[1], walk.hosts)
        for host in names if block.where.endswith("host") else [None]:
            for line in block.lines:
                if line.startswith("pip "):
                    continue
                said.append(done(walk.here(line) if host is None else walk.at(host, line)))
            if host is not None and "replica" in block.where:
                walk.wait_whole()
    return said


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a short name, as paths of sockets are limited."""
    return tmp_path_factory.mktemp("r")


@contextmanager
def set_up(folder: Path) -> Iterator[Walk]:
    """The first four sections."""
    walk = Walk(folder)
    try:
        for host in walk.hosts:
            walk.boot(host)
        for title in SECTIONS[:3]:
            follow(walk, title)
        walk.wait_whole()
        yield walk
    except BaseException as error:
        error.add_note(walk.logs())
        raise
    finally:
        walk.close()


def test_machines_are_set_up_and_found_sound(folder: Path) -> None:
    with set_up(folder) as walk:
        *_, doctor, status = follow(walk, SECTIONS[3])
        assert "sound, as far as can be seen" in doctor
        assert shapes(outputs(section(SECTIONS[3]))[0]) <= shapes(status)
        for host in walk.hosts:
            called = (walk.machines / host / "root" / "called").read_text()
            assert [line.split()[0] for line in called.splitlines()] == [
                "apt-get", "service", "update-rc.d", "sysctl"
            ]  # fmt: skip
            assert (walk.machines / host / "etc/sysctl.d/99-evercache.conf").exists()
            wait_for(lambda host=host: "STARTING" not in walk.control(host, "status"), 10, "programs to run")
            (shown,) = outputs(section(SECTIONS[2]))
            assert shapes(shown) == shapes(done(walk.at(host, "supervisorctl status")))
            assert "RDB" in done(walk.at(host, "supervisorctl tail node"))


def test_the_page_and_the_rendered_steps_agree(folder: Path) -> None:
    """What it says of files and commands is what a host's own README has."""
    walk = Walk(folder)
    files = deploy.render(walk.description, PASSWORDS, "supervisor")
    table = section(SECTIONS[0]).partition("| file |")[2]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`([^`]+)`", row)}
    assert named == {name.removeprefix("cache-1/") for name in files if name.startswith("cache-1/")}
    readme = files["cache-1/README.md"].replace(f"{walk.machines}/cache-1/", "/")
    steps = [line for title in SECTIONS[1:3] for block in blocks(section(title)) for line in block.lines]
    for line in steps:
        if not line.startswith("scp "):
            assert line.replace("cache-*/", "") in readme
    for extra in re.findall(r"evercache\[(\w+)\]", PAGE):
        assert f"\n{extra} = [" in (Path(__file__).parents[2] / "pyproject.toml").read_text()


class Watched:
    """What `evercache status` showed, each line once."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.lines: set[str] = set()

    def until(self, shown: str, timeout: float = 60) -> None:
        """Until all that the page shows was seen."""
        wanted, end = shapes(shown), time.monotonic() + timeout
        while not wanted <= self.lines:
            assert time.monotonic() < end, f"never seen: {wanted - self.lines}\namong {sorted(self.lines)}"
            self.lines |= shapes(self._walk.here("evercache status").stdout)
            time.sleep(0.1)


def computed(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+) of 1000 computed", text)]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_whole_walk(folder: Path) -> None:
    with set_up(folder) as walk:
        follow(walk, "4. Look")
        *_, first, second = follow(walk, "5. Point the site at it")
        assert (computed(first), computed(second)) == ([1000], [0])
        assert shapes(outputs(section("5. Point the site at it"))[0]) == shapes(first + second)
        window, ours = blocks(section("6. Rehearse"))
        assert window.lines == ["ROUNDS=3600 python pages.py"]
        with (folder / "window").open("w") as file:
            site = subprocess.Popen(
                [sys.executable, "pages.py"],
                cwd=folder,
                env=walk.environment | {"ROUNDS": "3600"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            (line,) = ours.lines
            done(walk.here(line))
            rehearse(walk)
        finally:
            site.kill()
            site.wait()
        # Pages were read all the time, and no call raised.
        rounds = (folder / "window").read_text()
        assert "Traceback" not in rounds
        assert len(computed(rounds)) > 20
        follow(walk, "7. On the day")
        upgrade(walk)


def rehearse(walk: Walk) -> None:
    title = "A planned failover"
    said = "".join(follow(walk, title))
    assert shapes(outputs(section(title))[0]) <= shapes(said)
    walk.wait_whole()

    title, old = "The master is killed", walk.master()
    seen = Watched(walk)
    (block,) = blocks(section(title))
    assert block.where == MASTERS
    done(walk.at(old, *block.lines))
    for shown in outputs(section(title)):
        seen.until(shown)
    assert walk.master() != old

    title, old = "A host without power", walk.master()
    (block,) = blocks(section(title))
    done(walk.at(old, *block.lines))
    assert walk.asked(old) == "o"
    walk.lose_power(old)
    seen = Watched(walk)
    for shown in outputs(section(title)):
        seen.until(shown)
    walk.boot(old)
    walk.wait_whole(60)
    assert walk.master() != old

    title = "All three at once"
    reboot, after = blocks(section(title))
    assert reboot.where == EACH
    time.sleep(2)  # appendfsync everysec
    master = walk.master()
    for host in walk.hosts:
        done(walk.at(host, *reboot.lines))
        assert walk.asked(host) == "b"
    walk.lose_power(*walk.hosts)
    for host in walk.hosts:
        walk.boot(host)
    walk.wait_whole(60)
    *_, pages = [done(walk.here(line)) for line in after.lines]
    assert sum(computed(pages)) <= 10
    assert walk.master() == master or walk.epoch() > 3


def upgrade(walk: Walk) -> None:
    title = "8. A new version of the server"
    replicas, until, over, former, diff = blocks(section(title))
    master = walk.master()
    for host in walk.hosts:
        if host != master:
            for line in replicas.lines:
                done(walk.at(host, line))
            for line in until.lines:
                done(walk.here(line))
    for line in over.lines:
        done(walk.here(line))
    assert walk.master() != master
    for line in former.lines:
        done(walk.at(master, line))
    walk.wait_whole()
    for line in diff.lines:
        done(walk.here(line))
