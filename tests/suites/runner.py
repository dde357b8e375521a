"""Takes the source packages from the registry, starts what they are to run on, and counts what passes."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.deployment import Deployment
from tests.server import Server
from tests.suites.left_out import DJANGO_REDIS_LEFT_OUT, LEFT_OUT

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: The last two are run as their users run them: one namespace for all tests, and everything flushed before each.
PLACES = ("memory", "standalone", "sentinel", "flushed", "flushed-behind")
#: The port at which Flask-Caching's own tests look for a server; without one they need a `redis-server` program.
THEIRS = 6360
#: Seconds that the replica is behind, by the place.
LAG = {"sentinel": 0.1, "flushed": 0.0, "flushed-behind": 0.1}


@dataclass(frozen=True, slots=True)
class Suite:
    """One package whose tests are run. `least`: how many must pass, in each place where it is run."""

    package: str
    least: dict[str, int]


_SERVED = ("standalone", "sentinel")
SUITES = {
    "cachelib": Suite("cachelib", {"memory": 42, "standalone": 42, "sentinel": 42}),
    "flask": Suite(
        "flask-caching", {"memory": 263, "standalone": 133, "sentinel": 133, "flushed": 133, "flushed-behind": 133}
    ),
    # The common tests of a backend but for the three about culling, and all of sessions.
    "django": Suite("django", dict.fromkeys(("memory", *_SERVED), 51 + 646)),
    # One asks a replica that is behind for what it has just written.
    "django_redis": Suite("django-redis", {"standalone": 150, "sentinel": 149}),
}


def main(arguments: list[str]) -> int:
    """Run what was asked for; the number of places in which too few tests passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=" or ".join(SUITES))
    parser.add_argument("--on", action="append", choices=PLACES, help="where; default: everywhere")
    parser.add_argument("--keep", type=Path, default=ROOT / ".venv" / ".suites", help="folder for the packages")
    options, more = parser.parse_known_args(arguments)
    wrong = 0
    for name in options.suites or list(SUITES):
        source = fetched(SUITES[name].package, options.keep)
        for place in options.on or PLACES:
            if place not in SUITES[name].least:
                continue
            with servers(place) as url, their_server(place):
                passed, summary = run(name, source, place, url, more)
            enough = passed >= SUITES[name].least[place] or bool(more)
            wrong += not enough
            print(f"{'ok ' if enough else 'BAD'} {source.name} on {place}: {summary}", flush=True)
    for test, reason in (LEFT_OUT | DJANGO_REDIS_LEFT_OUT).items():
        print(f"left out: {test}: {reason}")
    return wrong


def fetched(package: str, folder: Path) -> Path:
    """The unpacked source package of the installed version, taken from the registry unless it is here already."""
    folder.mkdir(parents=True, exist_ok=True)
    installed = version(package)
    pattern = f"{package.replace('-', '?')}-{installed}.tar.gz"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", str(folder), f"{package}=={installed}"], check=True, timeout=300)
    archive = max(folder.glob(pattern))
    target = folder / archive.name.removesuffix(".tar.gz")
    shutil.rmtree(target, ignore_errors=True)  # unchanged: always as it was packed
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # since 3.11.4
        packed.extractall(folder)
    return target


@contextlib.contextmanager
def servers(place: str) -> Iterator[str]:
    """The URL of what is to hold the entries."""
    if place == "memory":
        yield "memory://"
    elif place == "standalone":
        server = Server.start("valkey")
        try:
            yield f"redis://127.0.0.1:{server.port}"
        finally:
            server.close()
    else:
        with Deployment.start("valkey", replicas=1, sentinels=3, replica_delays=[LAG[place]]) as deployment:
            yield deployment.url


@contextlib.contextmanager
def their_server(place: str) -> Iterator[None]:
    """A server where theirs look for one, in the place where they run with it; not if something listens there."""
    with contextlib.ExitStack() as stack:
        if place == "memory" and not _taken(THEIRS):
            stack.enter_context(Server.start("valkey", port=THEIRS))
        yield


def _taken(port: int) -> bool:
    with socket.socket() as asking:
        asking.settimeout(1)
        return asking.connect_ex(("127.0.0.1", port)) == 0


def run(name: str, source: Path, place: str, url: str, more: list[str]) -> tuple[int, str]:
    """The number of tests that passed, and the last line of the run."""
    tests = source / "tests"
    path, folder = [str(ROOT), str(tests)], source
    if name == "django":
        shutil.copy(HERE / "django_backend.py", tests / "cache" / "test_evercache.py")
        shutil.copy(HERE / "django_settings.py", tests)
        command = [sys.executable, "runtests.py", "--settings=django_settings", "--parallel=1", *more]
        command += [] if more else ["cache.test_evercache", "sessions_tests"]
        path, folder = [str(tests)], tests
    elif name == "django_redis":
        shutil.copy(HERE / "django_redis_settings.py", tests / "settings" / "sqlite.py")
        path = [str(source)]
        command = [*_pytest(source), "-o", "addopts=", "-k", "sqlite]", *more, str(tests)]
        for test in DJANGO_REDIS_LEFT_OUT:
            command += ["--deselect", f"tests/{test}[sqlite]"]
    else:
        wanted = [str(tests)]
        if name == "cachelib":
            # One more backend beside theirs, which runs their common tests.
            wanted = [str(shutil.copy(HERE / "cachelib_backend.py", tests / "test_evercache.py"))]
        command = [*_pytest(source), "-p", f"tests.suites.{name}_plugin", *more, *wanted]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "EVERCACHE_SUITE_URL": url,
        "EVERCACHE_SUITE_PLACE": place,
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=540)
    lines = [line for line in (done.stdout + done.stderr).strip().splitlines() if not line.startswith("Destroying")]
    if done.returncode or more:
        print(done.stdout[-20000:], done.stderr[-20000:])
    if found := re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE):
        passed = int(found[1]) - sum(map(int, re.findall(r"=(\d+)", lines[-1])))
        return passed, f"{passed} passed; {lines[-1]}"
    found = re.search(r"(\d+) passed", done.stdout)
    return int(found[1]) if found else 0, done.stdout.strip().splitlines()[-1] if done.stdout.strip() else lines[-1]


def _pytest(source: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:randomly"),
        *("-o", "asyncio_default_fixture_loop_scope=function", "--rootdir", str(source), "--timeout", "60"),
    ]
