"""What a process costs that does little or nothing: `python -m benchmarks.idle`.

Each process follows a deployment of Sentinel with two replicas and three sentinels. It is idle, or it reads one
key twenty times a second. Reported are its processor time, its connections, and the commands that it sends to each
server (`tot-cmds` of `CLIENT LIST`). With `--fleet`: so many idle forked processes, and what they cost the primary.
With `--reach`: how long an invalidation takes to reach the other processes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from tests.servers import Deployment, Server

from benchmarks.values import product
from evercache import Cache
from evercache.engine.state import State
from evercache.protocol.replies import LogLine

__all__ = ["main"]

#: Name of the server and number of the connection -> commands so far.
Sent: TypeAlias = dict[tuple[str, str], int]
_FORK = get_context("fork")
#: Seconds from the last call until a process counts as idle, with room.
SETTLED = 6.0
PAUSE = 0.05


@contextmanager
def processes(count: int, work: Callable[[Connection, Any], None], given: Any) -> Iterator[list[Connection]]:
    """So many forked processes, each with the other end of a pipe; they end when it says so."""
    pipes, running = [], []
    try:
        for _ in range(count):
            here, there = _FORK.Pipe()
            process = _FORK.Process(target=work, args=(there, given), daemon=True)
            process.start()
            pipes.append(here)
            running.append(process)
        for pipe in pipes:
            if not pipe.poll(120):
                raise TimeoutError("a process does not answer")
            pipe.recv()
        yield pipes
    finally:
        for pipe in pipes:
            pipe.send(None)
        for process in running:
            process.join(10)


def follow(pipe: Connection, given: tuple[str, bool, bool]) -> None:
    """Read once; then read on, or do nothing. To each word it answers its processor time so far (seconds): of all
    its threads, and of the background."""
    url, used, record = given
    heard: dict[str, float] = {}
    if record:
        _record(heard)
    with Cache(url, namespace="bench") as cache:
        read = cache.cached(ttl=3600, name="product")(product)
        read(7)
        pipe.send(os.getpid())
        while True:
            if used and not pipe.poll(PAUSE):
                read(7)
            elif pipe.recv() is None:
                return
            else:
                pipe.send(heard if record else (time.process_time(), _background_time()))


def _record(heard: dict[str, float]) -> None:
    """Note when each invalidation is heard, by the name of what it covers."""
    before = State.hear_line

    def hear_line(self: State, line: LogLine) -> None:
        before(self, line)
        heard.setdefault(line.name, time.monotonic())

    State.hear_line = hear_line  # type: ignore[method-assign]


def _background_time() -> float:
    for thread in threading.enumerate():
        if thread.name.startswith("evercache"):
            used = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]
            return int(used) / 1e9
    return 0.0


def sent_to(servers: Sequence[tuple[str, Server]]) -> Sent:
    """What each connection of the library has sent so far."""
    found: Sent = {}
    for name, server in servers:
        for line in server.cli("CLIENT", "LIST").splitlines():
            facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if facts.get("name", "").startswith("evercache"):
                found[name, facts["id"]] = int(facts["tot-cmds"])
    return found


def one(whole: Deployment, *, used: bool, seconds: float) -> None:
    """Measure one process."""
    servers = [("primary", whole.nodes[0])]
    servers += [(f"replica {i}", node) for i, node in enumerate(whole.nodes[1:], 1)]
    servers += [(f"sentinel {i}", node) for i, node in enumerate(whole.sentinels, 1)]
    with processes(1, follow, (whole.url, used, False)) as (pipe,):
        time.sleep(SETTLED)
        before, began, (all_before, own_before) = sent_to(servers), time.monotonic(), _asked(pipe)
        time.sleep(seconds)
        all_after, own_after = _asked(pipe)
        took, after = time.monotonic() - began, sent_to(servers)
    print(f"\n{'in use, 20 reads a second' if used else 'idle'}:")
    share, own = (all_after - all_before) / took, (own_after - own_before) / took
    print(f"  processor {share:.3%} of a core, {own:.3%} of it in the background")
    by_server: Counter[str] = Counter()
    lines = []
    for (name, ident), count in sorted(after.items()):
        sent = count - before.get((name, ident), 0)
        by_server[name] += sent
        lines.append(f"  {name:<11} connection {ident:<5} {sent / took:6.2f} commands a second")
    print(f"  {len(after)} connections, {by_server.total() / took:.1f} commands a second")
    print("\n".join(lines))


def _asked(pipe: Connection) -> Any:
    pipe.send("?")
    return pipe.recv()


def fleet(whole: Deployment, count: int, seconds: float) -> None:
    """Measure so many idle processes at the primary."""
    primary = whole.nodes[0]
    quiet = _share(primary, seconds)
    with processes(count, follow, (whole.url, False, False)):
        time.sleep(SETTLED)
        busy = _share(primary, seconds)
    print(f"\n{count} idle processes: {busy - quiet:.2%} of the primary's core (without them {quiet:.2%})")


def _share(server: Server, seconds: float) -> float:
    def used() -> float:
        info = server.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    before, began = used(), time.monotonic()
    time.sleep(seconds)
    return (used() - before) / (time.monotonic() - began)


def reach(whole: Deployment, rate: int, count: int, seconds: float) -> None:
    """Measure from the acknowledgement of an invalidation to the moment at which another process hears of it.

    Of the listeners, four have processes of their own; the others read the log in one process, as cheaply as they
    can, so that the machine is not what is measured.
    """
    own = 4
    with (
        processes(own, follow, (whole.url, True, True)) as pipes,
        processes(1, crowd, (whole.nodes[0].port, count - own)),
    ):
        time.sleep(1.0)
        told = asyncio.run(_invalidate(whole.url, rate, seconds))
        time.sleep(1.0)
        late = sorted(
            1000 * max(0.0, at - told[name]) for pipe in pipes for name, at in _asked(pipe).items() if name in told
        )
    print(
        f"\n{rate} invalidations a second, {count} listeners: heard {len(late)} of {len(told) * own} times, after"
        f" {median(late):.1f} ms (median), {late[int(0.99 * len(late))]:.1f} (99 %), {late[-1]:.1f} (longest)"
    )


async def _invalidate(url: str, rate: int, seconds: float) -> dict[str, float]:
    told: dict[str, float] = {}
    async with Cache(url, namespace="bench") as cache:
        await cache.adelete("first")

        async def delete(number: int) -> None:
            if await cache.adelete(f"key:{number}"):
                told[f"bench:k:key:{number}"] = time.monotonic()

        began = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        while (passed := time.monotonic() - began) < seconds:
            for number in range(len(tasks), int(passed * rate) + 1):
                tasks.append(asyncio.create_task(delete(number)))
            await asyncio.sleep(min(0.005, 1 / rate))
        await asyncio.gather(*tasks)
    return told


def crowd(pipe: Connection, given: tuple[int, int]) -> None:
    """Listeners that read the log and do nothing with it."""
    port, count = given

    async def listen(number: int) -> None:
        await asyncio.sleep(number * 0.002)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        from hiredis import Reader

        position, replies = b"$", Reader()
        while True:
            words = (b"XREAD", b"COUNT", b"500", b"BLOCK", b"250", b"STREAMS", b"bench~log", position)
            writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
            while (reply := replies.gets()) is False:
                replies.feed(await reader.read(65536))
            if reply:
                position = reply[0][1][-1][0]
                await asyncio.sleep(0.02)

    async def run() -> None:
        listening = [asyncio.ensure_future(listen(number)) for number in range(count)]
        await asyncio.sleep(0.5 + count * 0.003)
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)

    asyncio.run(run())


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--fleet", type=int, default=0, help="so many idle processes: what they cost the primary")
    parser.add_argument("--reach", type=int, default=0, help="how fast so many listeners hear of invalidations")
    options = parser.parse_args(arguments)
    with Deployment.start() as whole:
        if options.fleet:
            fleet(whole, options.fleet, options.seconds)
        elif options.reach:
            for rate in (1, 1_000):
                reach(whole, rate, options.reach, options.seconds)
        else:
            for used in (False, True):
                one(whole, used=used, seconds=options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
