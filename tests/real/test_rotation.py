"""`reload.sh`: passwords and certificates change while a site reads, and nothing is restarted."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.real.rendered import Rendered, described
from tests.real.trouble_tools import Answers, Site, reading
from tests.servers import find_server, wait_for

from evercache import Cache
from evercache.errors import AuthenticationFailed, UnavailableError
from evercache.ops.doctor import gather
from evercache.ops.doctor.facts import Certificate
from evercache.ops.doctor.gather import lines

pytestmark = pytest.mark.timeout(500)


def with_client(folder: Path) -> dict[str, str]:
    """An environment in which the command line client of each kind of server is there: it comes with Redis."""
    found = [path for folder in os.get_exec_path() if (path := Path(folder, "redis-cli")).exists()]
    if not found:
        pytest.skip("no redis-cli on this machine")
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("valkey-cli", "redis-cli"):
        if not (folder / "bin" / name).exists():
            (folder / "bin" / name).symlink_to(found[0])
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def reload(made: Rendered, host: str, environment: Mapping[str, str], password: str) -> str:
    """Run it as the README of the host has it; returns what it says."""
    done = subprocess.run(
        ["sh", "reload.sh"],
        cwd=made.out / host,
        env={**environment, "REDISCLI_AUTH": password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def processes(made: Rendered) -> list[str]:
    """The ids that servers give themselves at each start."""
    infos = [made.command(host, "INFO", "server", sentinel=kind) for host in made.hosts for kind in (False, True)]
    return [lines(info)["run_id"] for info in infos]


def workers(url: str, budget: float = 5.0) -> Cache:
    """Of the site; a busy machine takes its time for handshakes."""
    return Cache(
        f"{url}{'&' if '?' in url else '?'}connect_timeout=2", namespace="shop", on_error="raise", budget=budget
    )


@contextlib.contextmanager
def visited(site: Site, url: str) -> Iterator[Answers]:
    """The site is read all the time, once its workers follow the servers."""
    with workers(url) as cache:
        page = site.on(cache)

        def follows() -> bool:
            with contextlib.suppress(UnavailableError):
                return page(1) == 0
            return False

        wait_for(follows, 60, "the workers to follow the servers")
        with reading(page, 1) as answers:
            yield answers


def certificates(made: Rendered) -> list[Certificate | None]:
    """What nodes and sentinels present; nothing without TLS."""

    def seen() -> list[Certificate | None]:
        servers = sorted(gather(made.url("monitoring")).servers, key=lambda one: str(one.address))
        found = [one.certificate for one in servers]
        return found if len(found) == 2 * len(made.hosts) and all(found) else []

    return wait_for(seen, 30, "all certificates") if made.description.tls.enabled else []


def cut(made: Rendered) -> None:
    """Every connection between the servers breaks, and is made anew with what they have now."""
    for host in made.hosts:
        for user in ("replication", "sentinel"):
            made.command(host, "CLIENT", "KILL", "USER", user)
        made.command(host, "CLIENT", "KILL", "USER", "sentinel", sentinel=True)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its path is short: that of a socket in it may have 107 bytes."""
    return tmp_path_factory.mktemp("r")


@pytest.fixture(
    params=["valkey", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("redis7", "redis6"))],
)
def running(request: pytest.FixtureRequest, folder: Path) -> Iterator[Rendered]:
    kind = request.param
    if find_server(kind) is None:
        pytest.skip(f"no {kind} server on this machine")
    secure = kind == "redis7"  # the wheels are built without TLS
    more: dict[str, Any] = {}
    if secure:
        more["tls"] = {"enabled": True, "client_certificates": True, "client_folder": f"{folder}/rendered/ca"}
    with Rendered.running(folder, described(folder, kind, **more), certificates=secure) as made:
        yield made


def test_passwords_change_without_a_restart_while_a_site_reads(running: Rendered, folder: Path) -> None:
    """In three steps: both are accepted, the new one is used, the old one is refused."""
    environment, before = with_client(folder), processes(running)
    old, new = dict(running.passwords), {role: f"{role}-another-one-012" for role in running.passwords}
    site = Site()

    def step(lines: str, operator: str) -> None:
        for role in old:
            (folder / "passwords" / role).write_text(lines.format(old=old[role], new=new[role]))
        running.render(certificates=running.description.tls.enabled)
        for host in running.hosts:
            said = reload(running, host, environment, operator)
            assert not any(password in said for password in (*old.values(), *new.values()))

    old_url, shown = running.url("application"), certificates(running)
    for path in running.out.glob("*/tls/tls.crt"):
        path.unlink()  # the first step brings new ones
    with visited(site, old_url) as answers:
        wait_for(lambda: len(answers.all) > 50, what="the site to read")
        step("{old}\n{new}\n", old["operator"])
        cut(running)
        step("{new}\n{old}\n", old["operator"])
        cut(running)
        running.wait_whole()
        new_url = running.url("application")
        assert new_url != old_url
        with visited(site, new_url) as later:
            wait_for(lambda: len(later.all) > 50, what="the restarted workers to read")
            step("{new}\n", new["operator"])
            cut(running)
            running.wait_whole()
            count = len(later.all)
            wait_for(lambda: len(later.all) > count + 50, what="the restarted workers to read on")
    assert (answers.errors, later.errors) == ([], [])
    assert {value for _, _, value in (*answers.all, *later.all)} == {0}
    assert processes(running) == before, "nothing was restarted"
    with workers(old_url, budget=2.0) as forgotten, pytest.raises(UnavailableError):
        site.on(forgotten)(2)
    for host in running.hosts:
        with pytest.raises(AuthenticationFailed):
            running.command(host, "PING", role="operator", password=old["operator"])
    if running.description.tls.enabled:
        changed = [new != old for new, old in zip(certificates(running), shown, strict=True)]
        assert sorted(changed) == [False] * 3 + [True] * 3, "those of the nodes"
        for host in running.hosts:
            running.control(host, "restart", "sentinel")
            running.wait_whole()
        assert all(new != old for new, old in zip(certificates(running), shown, strict=True))
    # A failover needs all of them: the sentinels' at the nodes, at one another, and that of the replicas.
    master = running.master()
    running.kill(master)
    wait_for(lambda: running.master() not in {master, ""}, 30, "another master")
    running.wait_whole()
    assert running.fired() == []
