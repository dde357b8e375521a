"""The time that the primary spends on each operation, of this version and of an older commit, measured in turn.

    python -m benchmarks.server_time --old main~20
    python -m benchmarks.server_time --old v1.2.0 --listeners 200 --server redis7

Each version runs its own scripts on a server of its own. The figures are the least of all rounds, in microseconds:
the time within scripts (`INFO commandstats`), and the processor time of the server for each operation with all that
goes with it (parsing, replies, the lines of the log to its listeners). `--one` sends one call at a time, as a web
process does; otherwise a hundred calls are sent in one write, so that the server's caches are warm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_OPERATIONS = ("lease", "store", "read", "set", "invalidate", "function", "tag")


class _Connection:
    """A plain connection that sends many commands in one write."""

    def __init__(self, port: int) -> None:
        import socket

        import hiredis

        self._hiredis = hiredis
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._reader = hiredis.Reader()

    def __repr__(self) -> str:
        return f"<_Connection {self._socket!r}>"

    def send(self, commands: Sequence[Sequence[Any]]) -> None:
        plain = (tuple(str(word) if isinstance(word, int) else word for word in words) for words in commands)
        self._socket.sendall(b"".join(map(self._hiredis.pack_command, plain)))

    def many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        self.send(commands)
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                data = self._socket.recv(1 << 20)
                if not data:
                    raise ConnectionError("the server closed the connection")
                self._reader.feed(data)
            elif isinstance(reply, Exception):
                raise reply
            else:
                replies.append(reply)
        return replies

    def one(self, *words: Any) -> Any:
        return self.many([words])[0]


def _figures(connection: _Connection) -> tuple[int, float, float]:
    """Calls of scripts, microseconds within them, and the processor time of the server's main thread."""
    facts = connection.one("INFO", "commandstats").decode() + connection.one("INFO", "cpu").decode()
    named = dict(line.partition(":")[::2] for line in facts.split("\r\n") if ":" in line)
    stats = dict(pair.split("=") for pair in named.get("cmdstat_evalsha", "calls=0,usec=0").split(","))
    cpu = float(named["used_cpu_sys_main_thread"]) + float(named["used_cpu_user_main_thread"])
    return int(stats["calls"]), float(stats["usec"]), cpu * 1e6


class _Worker:
    """Runs the operations of the version that this process imports."""

    def __init__(self, port: int, listeners: int, one_by_one: bool) -> None:
        from evercache.protocol.commands import Bookkeeping, Commands, Limits

        self._connection, self._one_by_one = _Connection(port), one_by_one
        self._commands = Commands(Bookkeeping("bench"), Limits(), life=lambda: "feedfeedfeedfeed")
        self._round = 0
        info = self._connection.one("INFO", "replication").decode()
        self._head = {"replid": info.split("master_replid:")[1][:40], "newest": 0}
        for script in self._all_scripts():
            self._connection.one("SCRIPT", "LOAD", script.text)
        self._listeners = [_Connection(port) for _ in range(listeners)]

    def __repr__(self) -> str:
        return f"<_Worker of round {self._round}>"

    @staticmethod
    def _all_scripts() -> list[Any]:
        from evercache.protocol.scripts import SCRIPTS

        return list(SCRIPTS.values())

    def _run(self, calls: Sequence[Any]) -> tuple[list[Any], float, float]:
        """The replies; microseconds of scripts and of the processor, for each call."""
        commands = [call.evalsha() for call in calls]
        for listener in self._listeners:
            listener.send([self._commands.tail("$", count=1000, block_ms=300)])
        before = _figures(self._connection)
        if self._one_by_one:
            replies = [self._connection.one(*words) for words in commands]
        else:
            parts = [commands[at : at + 100] for at in range(0, len(commands), 100)]
            replies = [reply for part in parts for reply in self._connection.many(part)]
        _, usec, cpu = (b - a for a, b in zip(before, _figures(self._connection), strict=True))
        for listener in self._listeners:
            listener.many([])
        return replies, usec / len(calls), cpu / len(calls)

    def round(self, count: int) -> dict[str, tuple[float, float]]:
        """All operations once for so many keys."""
        from evercache.protocol.replies import parse_lease
        from evercache.protocol.scope import Scope, Subject, tag_hash

        self._round += 1
        envelope = b"\xe7\xca\x01\x00" + bytes(34) + b"x" * 200
        subjects = [Subject(f"bench:m.f:{self._round}:{n}", "m.f") for n in range(count)]
        tokens = [f"{self._round:08x}{n:08x}" for n in range(count)]
        late = 2**52
        found: dict[str, tuple[float, float]] = {}

        def timed(name: str, calls: list[Any]) -> list[Any]:
            replies, *figures = self._run(calls)
            found[name] = (figures[0], figures[1])
            return replies

        c, head = self._commands, self._head
        replies = timed("lease", [
            c.lease(s, **head, least=0, token=t, lease_ms=1000, expected_ms=5, not_after_us=late)
            for s, t in zip(subjects, tokens, strict=True)
        ])  # fmt: skip
        stamps = [parse_lease(reply).stamp for reply in replies]
        timed("store", [
            c.store(s.key, **head, token=t, stamp=stamp, soft_ms=60_000, span_ms=0,
                    envelope=envelope[:22] + bytes.fromhex(t) + envelope[30:])
            for s, t, stamp in zip(subjects, tokens, stamps, strict=True)
        ])  # fmt: skip
        timed("read", [
            c.lease(s, **head, least=0, token=t[::-1], lease_ms=1000, expected_ms=5, not_after_us=late)
            for s, t in zip(subjects, tokens, strict=True)
        ])  # fmt: skip
        timed("set", [
            c.set(s, **head, id=t, not_after_us=late, soft_ms=60_000, span_ms=0, envelope=envelope)
            for s, t in zip(subjects, tokens, strict=True)
        ])  # fmt: skip
        timed("invalidate", [
            c.invalidate(Scope.of_key(s.key), **head, id=t, function="m.f")
            for s, t in zip(subjects, tokens, strict=True)
        ])  # fmt: skip
        timed("function", [
            c.invalidate(Scope("f", f"m.f{n % 20}"), **head, id="f" + t[1:]) for n, t in enumerate(tokens)
        ])  # fmt: skip
        timed("tag", [
            c.invalidate(Scope("t", tag_hash(f"t{n}").hex()), **head, id="e" + t[1:]) for n, t in enumerate(tokens)
        ])  # fmt: skip
        return found


def _work(port: int, listeners: int, one_by_one: bool) -> None:
    """In a process of its own: a round for each number of keys that is read."""
    worker = _Worker(port, listeners, one_by_one)
    for line in sys.stdin:
        print(json.dumps(worker.round(int(line))), flush=True)


@contextlib.contextmanager
def _version(source: Path, kind: str, listeners: int, one_by_one: bool) -> Iterator[subprocess.Popen[str]]:
    from tests.server import Server

    with Server.start(kind) as server:
        command = [sys.executable, str(Path(__file__)), "--work", str(server.port), "--listeners", str(listeners)]
        worker = subprocess.Popen(
            [*command, *(["--one"] if one_by_one else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=source,
            env={**os.environ, "PYTHONPATH": str(source / "src")},
        )  # fmt: skip
        try:
            yield worker
        finally:
            worker.kill()
            worker.communicate()


def _measure(old: str, rounds: int, keys: int, **options: Any) -> dict[str, list[dict[str, tuple[float, float]]]]:
    found: dict[str, list[dict[str, tuple[float, float]]]] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        archive = subprocess.run(["git", "archive", old, "src"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        workers = {
            "old": stack.enter_context(_version(Path(folder), **options)),
            "new": stack.enter_context(_version(ROOT, **options)),
        }
        for _ in range(rounds):
            for name, worker in workers.items():
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write(f"{keys}\n")
                worker.stdin.flush()
                found[name].append(json.loads(worker.stdout.readline()))
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="the primary's time for each operation, beside an older commit")
    parser.add_argument("--old", default="main", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keys", type=int, default=300, help="operations of each kind in a round")
    parser.add_argument("--listeners", type=int, default=0, help="processes that follow the log meanwhile")
    parser.add_argument("--one", action="store_true", help="one call at a time")
    parser.add_argument("--server", default="valkey", choices=("redis6", "redis7", "valkey"))
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        _work(options.work, options.listeners, options.one)
        return
    found = _measure(
        options.old, options.rounds, options.keys,
        kind=options.server, listeners=options.listeners, one_by_one=options.one,
    )  # fmt: skip
    columns = f"{'new':>8}{'ratio':>7}"
    print(f"{'us for each operation':24}{'script: old':>12}{columns}{'server: old':>14}{columns}")
    for name in _OPERATIONS:
        line = f"{name:24}"
        for which, width in ((0, 12), (1, 14)):
            old, new = (min(each[name][which] for each in found[version]) for version in ("old", "new"))
            line += f"{old:{width}.1f}{new:8.1f}{new / old if old else 0:7.2f}"
        print(line)


if __name__ == "__main__":
    main()
