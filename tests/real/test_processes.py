"""Processes: forks, threads, event loops, exits. Each in an interpreter of its own, as a site would run it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from tests.real.trouble_tools import heard
from tests.servers import Server, free_port, wait_for

from evercache import Cache

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import asyncio, json, os, pathlib, sys, threading, time, traceback
from evercache import Cache
URL, SPOOL = sys.argv[1:3]
runs = []
def fds():
    return len(os.listdir("/proc/self/fd"))
def put(**found):
    print(json.dumps(found), flush=True)
def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)
"""


def start(code: str, url: str, spool: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code), url, spool],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code: str, url: str, spool: str = "", timeout: float = 25) -> tuple[list[dict[str, Any]], str]:
    """What the program put, and what it said on the error output."""
    process = start(code, url, spool)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()], err


def clients(server: Server) -> int:
    """Connections from this library."""
    return str(server.cli("CLIENT", "LIST")).count("name=evercache")


def test_nothing_before_the_first_use_and_nothing_after_close(valkey: Server) -> None:
    program = """
    import io
    base = fds()
    cache = Cache(URL)
    @cache.cached(ttl=60)
    def f(x): return x
    assert threading.active_count() == 1 and fds() == base
    sys.stdin.readline()
    assert f(1) == f(1) == 1 and cache.set("k", 1)
    async def use():
        assert await cache.aget("k") == 1
    asyncio.run(use())
    put(threads=[t.name for t in threading.enumerate()])
    sys.stdin.readline()
    cache.close()
    put(threads=[t.name for t in threading.enumerate()], fds=fds() - base, value=f(1))
    sys.stdin.readline()
    cache.close()
    """
    process = start(program, valkey.url)
    assert process.stdin is not None
    assert process.stdout is not None

    def go() -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    try:
        time.sleep(0.3)  # time enough to do what must not be done
        assert clients(valkey) == 0
        go()
        used = json.loads(process.stdout.readline())
        assert used["threads"] == ["MainThread", "evercache-background"]
        assert clients(valkey) >= 2
        go()
        closed = json.loads(process.stdout.readline())
        assert closed == {"threads": ["MainThread"], "fds": 0, "value": 1}
        wait_for(lambda: clients(valkey) == 0, 2, "the server to see them go")
        _, err = process.communicate("\n", timeout=10)
        assert process.returncode == 0
        (line,) = err.splitlines()
        assert "was used after close()" in line
    finally:
        process.kill()
        process.communicate()


def test_a_fork_after_use(valkey: Server, tmp_path: Path) -> None:
    """Pre-fork: the parent used the cache, with threads that read all the time. Children share nothing of it."""
    program = """
    cache = Cache(URL)
    truth = {"v": 0}
    def sockets():
        # The open connections to the server, by inode.
        end = f":{cache.location.nodes[0].port:04X}"
        rows = [line.split() for line in pathlib.Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
        ours = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(end)}
        links = []
        for fd in os.listdir("/proc/self/fd"):
            try: links.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError: pass
        return ours & set(links)
    @cache.cached(ttl=60, near=30, name="f")
    def f(): return path.read_text()
    path = pathlib.Path(SPOOL)
    path.write_text("0")
    assert f() == "0"
    over = threading.Event()
    def reader():
        while not over.is_set():
            f(); cache.get("x")
    threads = [threading.Thread(target=reader) for _ in range(2)]
    for t in threads: t.start()
    until(lambda: cache.stats().counters.near_hits > 100)
    mine = sockets()
    assert len(mine) >= 3, "connections of the threads, the tail, the monitor"
    children, pipes = [], []
    for number in range(3):
        down, up = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(down[1]); os.close(up[0])
            assert threading.active_count() == 1, threading.enumerate()
            began = time.monotonic()
            first = f()
            took = time.monotonic() - began
            until(lambda: (f(), cache.stats().counters.near_hits > 300)[1])
            report = {"first": first, "took": took, "shared": len(sockets() & mine),
                      "threads": [t.name for t in threading.enumerate()]}
            os.write(up[1], (json.dumps(report) + chr(10)).encode())
            command = os.read(down[0], 1)
            if command == b"i":
                path.write_text("1")
                ack = f.invalidate()
                report = {"ack": bool(ack), "at": time.monotonic(), "value": f()}
            else:
                until(lambda: f() == "1")
                report = {"at": time.monotonic()}
            os.write(up[1], (json.dumps(report) + chr(10)).encode())
            os.read(down[0], 1)
            cache.close()
            os._exit(0)
        os.close(down[0]); os.close(up[1])
        children.append(pid); pipes.append((down[1], os.fdopen(up[0])))
    for _, up in pipes:
        put(**json.loads(up.readline()))
    for number, (down, _) in enumerate(pipes[::-1]):
        if number == 2: time.sleep(0.2)
        os.write(down, b"i" if number == 2 else b"h")
    until(lambda: f() == "1")
    put(at=time.monotonic())
    for _, up in pipes:
        put(**json.loads(up.readline()))
    for down, _ in pipes: os.write(down, b"x")
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    over.set()
    for t in threads: t.join()
    assert f() == "1" and cache.health().ok, cache.health()
    cache.close()
    """
    found, err = run(program, valkey.url, str(tmp_path / "truth"))
    assert "Traceback" not in err
    children, parent, after = found[:3], found[3], found[4:]
    for child in children:
        assert child["first"] == "0"
        assert child["took"] < 0.5
        assert child["shared"] == 0, "no socket of the parent is used"
        assert child["threads"] == ["MainThread", "evercache-background"]
    assert after[0]["ack"]
    assert after[0]["value"] == "1"
    for other in [parent, *after[1:]]:
        assert other["at"] - after[0]["at"] < 0.1, "heard within 100 ms"


def test_a_child_that_never_uses_it_leaves_the_parent_alone(valkey: Server) -> None:
    program = """
    cache = Cache(URL)
    assert cache.set("k", "v")
    pid = os.fork()
    if pid == 0:
        sys.exit(0)  # runs the exit handlers
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cache.get("k") == "v" and cache.delete("k")
    put(failures=cache.stats().counters.failures, resyncs=cache.stats().resyncs)
    """
    found, err = run(program, valkey.url)
    assert found == [{"failures": 0, "resyncs": 1}]
    assert err == ""


def test_many_event_loops(valkey: Server) -> None:
    """One after the other, and several at once in threads: no descriptor is left behind."""
    program = """
    cache = Cache(URL)
    @cache.cached(ttl=60)
    async def f(x):
        await asyncio.sleep(0.001)
        return x
    async def use():
        assert await asyncio.gather(*(f(n) for n in range(5))) == list(range(5))
        key = threading.current_thread().name
        assert await cache.aset(key, 1) and await cache.aget(key) == 1
    asyncio.run(use())
    base = fds()
    for _ in range(20):
        asyncio.run(use())
    put(after=fds() - base)
    failed = []
    def several():
        try:
            for _ in range(5):
                asyncio.run(use())
        except BaseException as error:
            failed.append(repr(error))
    threads = [threading.Thread(target=several) for _ in range(6)]
    for t in threads: t.start()
    for t in threads: t.join()
    put(after=fds() - base, failed=failed, failures=cache.stats().counters.failures)
    cache.close()
    """
    found, err = run(program, valkey.url)
    assert err == ""
    assert found == [{"after": 0}, {"after": 0, "failed": [], "failures": 0}]


@pytest.mark.parametrize("end", ["falls off the end", "sys.exit", "close"])
def test_an_exit_with_queued_invalidations(end: str, tmp_path: Path) -> None:
    """Quick, and with the count in the log; the spool file brings them at the next start."""
    spool = str(tmp_path / "spool")
    program = """
    cache = Cache(URL, spool=SPOOL or None)
    @cache.cached(ttl=600, name="f")
    def f(x): return runs.append(x) or len(runs)
    for x in range(3):
        assert f.invalidate(x).queued
    assert cache.invalidate_tag("t").queued
    put(end=time.time())
    """ + {"falls off the end": "", "sys.exit": "\n    sys.exit()", "close": "\n    cache.close()"}[end]
    with Server.start("valkey") as server:
        with Cache(server.url) as cache:
            f = cache.cached(ttl=600, name="f")(lambda x: 0)
            assert [f(x) for x in range(4)] == [0] * 4
        server.freeze()
        process = start(program, server.url, spool)
        try:
            out, err = process.communicate(timeout=20)
            assert time.time() - json.loads(out)["end"] < 2.5
            assert process.returncode == 0
        finally:
            process.kill()
            server.thaw()
        assert "no master had 4 invalidations" in err
        assert f"they are kept in {spool}" in err
        assert len(Path(spool).read_text().splitlines()) == 4
        with Cache(server.url, spool=spool) as cache:
            f = cache.cached(ttl=600, name="f")(lambda x: 1)
            assert [f(x) for x in range(4)] == [1, 1, 1, 0]
            wait_for(lambda: cache.stats().pending == 0, 3, "them to be brought")
            wait_for(lambda: not Path(spool).exists(), 3, "the file to be removed")
        with Cache(server.url, budget=10) as other:
            values = [other.cached(name="f")(lambda x: 2)(x) for x in range(4)]
            assert 0 not in values[:3]
            assert values[3] == 0


def test_an_exit_without_a_spool_names_the_count_and_the_mend() -> None:
    program = """
    cache = Cache(URL)
    assert cache.delete("a").queued and cache.delete("b").queued
    """
    began = time.monotonic()
    _, err = run(program, f"redis://127.0.0.1:{free_port()}")
    assert time.monotonic() - began < 5
    assert "no master had 2 invalidations" in err
    assert "set spool= to a file path" in err


def test_a_spool_that_cannot_be_used(tmp_path: Path) -> None:
    """No error reaches the caller, neither at the first use nor at the end."""
    spool = tmp_path / "spool"
    spool.mkdir()  # a folder where a file is wanted
    program = """
    cache = Cache(URL, spool=SPOOL)
    assert cache.get_or_compute("k", lambda: 7) == 7
    assert cache.delete("k").queued
    cache.close()
    put(threads=threading.active_count())
    """
    found, err = run(program, f"redis://127.0.0.1:{free_port()}", str(spool))
    assert found == [{"threads": 1}]
    assert "cannot be kept either" in err
    assert "spool=" in err


def test_lines_of_a_spool_that_nobody_understands(valkey: Server, tmp_path: Path) -> None:
    """Of a later version, or cut short: they stand for everything."""
    spool = tmp_path / "spool"
    for line in (
        '{"v": 2, "id": "00000000000000aa", "kind": "k", "name": "hash:1"}',
        '{"v": 1, "id": "00000000000000ab", "kind": "glob", "name": "*"}',
        '{"v": 1, "id": "00000000000000ac", "kind": "t", "name": "no hash"}',
        '{"v": 1, "id": "0000',
    ):
        with Cache(valkey.url) as cache:
            assert cache.set("k", "old")
        spool.write_text(line + "\n")
        with Cache(valkey.url, spool=str(spool)) as cache:
            assert cache.get("k") is None, line
            heard(cache)
            assert cache.health().ok


@pytest.mark.parametrize("options", ["{}", '{b"threads": b"2"}', '{"enable-threads": True}'])
def test_uwsgi(options: str, valkey: Server) -> None:
    """Without threads nothing can be followed: it is said, and every call computes."""
    program = f"""
    import types
    sys.modules["uwsgi"] = types.SimpleNamespace(opt={options})
    cache = Cache(URL)
    @cache.cached(ttl=60)
    def f(x): return runs.append(x) or len(runs)
    put(values=[f(1), f(1)], threads=threading.active_count(), ok=bool(cache.set("k", 1)), got=cache.get("k"),
        told=[p for p in cache.health().problems if "enable-threads" in p])
    """
    (found,), err = run(program, valkey.url)
    if options == "{}":
        assert found["values"] == [1, 2]
        assert found["threads"] == 1
        assert found["ok"] is False
        assert found["got"] is None
        assert len(found["told"]) == 1
        assert err.count("enable-threads = true") == 1
    else:
        assert found["values"] == [1, 1]
        assert found["ok"]
        assert found["got"] == 1
        assert found["told"] == []
        assert err == ""
