"""Files of the local deployments and of hosts, and the spool of invalidations."""

from __future__ import annotations

import configparser
import functools
import json
import os
import tempfile
from pathlib import Path

from evercache.engine import spool as spools
from evercache.engine.spool import Spool
from evercache.errors import DeploymentError
from evercache.ops import config as configs
from evercache.ops.config import DeploymentConfig, NodeConfig
from evercache.ops.doctor import programs, shell
from tests.edits import edit
from tests.fuzz.target import JSON, Bug, Target, must

__all__ = ["TARGETS"]


@functools.cache
def _made(pid: int) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="evercache-fuzz-", ignore_cleanup_errors=True)


def _folder() -> Path:
    """A folder of each process: the hunters are forked."""
    return Path(_made(os.getpid()).name)


def _deployment(data: bytes) -> None:
    (_folder() / "deployment.json").write_bytes(data)
    try:
        found = DeploymentConfig.load(_folder())
    except DeploymentError:
        return
    must(found is not None, "a file that is not there")
    assert found is not None
    must(all(isinstance(one.port, int) and 0 < one.port < 65536 for one in found.nodes), "a port that is none")
    must(all(isinstance(one.name, str) for one in found.nodes), "a node without a name")
    must(
        isinstance(found.url, str) and (found.password not in ("0f1e2d3c",) or found.password not in repr(found)),
        "a password is shown",
    )
    found.save()
    must(DeploymentConfig.load(_folder()) == found, "a deployment changes when it is saved")


def _spool(data: bytes) -> None:
    path = _folder() / "spool"
    path.write_bytes(data)
    events: list[object] = []
    spool = Spool(str(path), events.append)
    items = spool.load()
    lines = data.decode("utf-8", "replace").splitlines()
    must(len(items) <= max(len(lines), data.count(b"\r") + data.count(b"\n") + 1), "more than there were lines")
    undelivered = [line for line in data.split(b"\n") if line.strip(b"\r") and not line.startswith(b"#")]
    must(len(items) == len(undelivered), "an invalidation was lost")
    must(
        all(one.scope.kind in ("k", "f", "t", "*") and isinstance(one.id, str) for one in items),
        "a scope of nothing",
    )
    spool.settle([])
    must(not path.exists() or not undelivered, "lines that will be read again")
    path.unlink(missing_ok=True)


def _host(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for name, value in shell.directives_of(text):
        must(name in shell._KEPT or name == "sentinel", "a setting that nobody asked for")
        must(
            "pass-word" not in value or name in ("dir", "save", "bind") or "pass-word" in _others(text),
            "a password",
        )
    unit = programs.systemd_program("valkey.service", text)
    must(unit is None or unit.stop_timeout >= 0, "a time below nothing")
    (_folder() / "supervisord.conf").write_bytes(data)
    try:
        for program in programs.programs_of_file(
            _folder() / "supervisord.conf", _folder(), "/etc/valkey/valkey.conf"
        ):
            must(program.kind == "supervisor", "a program of nobody")
    except (OSError, ValueError, configparser.Error):
        return  # `program_of` says that the file cannot be read


def _others(text: str) -> str:
    """What is no line with a password: the word may stand there by the fuzzer's doing."""
    lines = text.splitlines()
    return "\n".join(line for line in lines if not line.lower().startswith(("requirepass", "sentinel auth-pass")))


def _saved() -> bytes:
    nodes = (*(NodeConfig(f"node-{n}", 7000 + n) for n in (1, 2)), NodeConfig("sentinel-1", 7100, True, "c" * 40))
    made = DeploymentConfig("default", _folder(), Path("/usr/bin/valkey-server"), "0f1e2d3c", "4b5a6978", nodes)
    made.save()
    return (_folder() / "deployment.json").read_bytes()


_LINE = json.dumps({"v": 1, "id": "ab", "kind": "k", "name": "shop:k:a"}).encode() + b"\n"
_SUPERVISOR = (
    b"[supervisord]\n[program:valkey]\ncommand=bash -c 'sleep 5; valkey-server /etc/valkey/valkey.conf'\n"
    b"autorestart=true\nstopwaitsecs=60\n[include]\nfiles = conf.d/*.conf\n"
)
_VALKEY = b'port 6379\nbind 127.0.0.1 "::1"\nrequirepass pass-word\nsentinel monitor mymaster h 6379 2\ndir "/x"\n'
_SYSTEMD = b"Restart=always\nRestartUSec=100ms\nTimeoutStopUSec=1min 30s\nKillSignal=15\nFragmentPath=/x\n"
_JSON = (
    b'"',
    b"{",
    b"[",
    b"null",
    b"-1",
    b"1e999",
    b'""',
    b"{}",
    b"[]",
    b"true",
    b"\n",
    b"\r",
    "²".encode(),
    b"\xff",
    b"65536",
)

TARGETS = (
    Target(
        "deployment",
        _deployment,
        (_saved(), b'{"format": ' + b"[" * 5000, b'{"more": ' + b"[" * 5000),
        _JSON,
        (
            Bug(
                "nesting without end is an error",
                edit(configs.DeploymentConfig, "load", (", RecursionError", "")),
            ),
        ),
        forms=JSON,
    ),
    Target(
        "spool",
        _spool,
        (_LINE * 2, _LINE + _LINE[:20], _LINE.replace(b'"k"', b'"t"'), _LINE.replace(b"1", b"2")),
        _JSON,
        (
            Bug(
                "a line that is cut short is dropped",
                edit(
                    spools.Spool,
                    "_parsed",
                    ("return Pending(os.urandom(8).hex(), EVERYTHING, 0, due=0.0)", "return None"),
                ),
            ),
            Bug("a line of any kind", edit(spools.Spool, "_parsed", ("KeyError, TypeError, AttributeError, ", ""))),
        ),
        forms=JSON,
    ),
    Target(
        "host",
        _host,
        (_SUPERVISOR, _VALKEY, _SYSTEMD),
        (
            b"'",
            b'"',
            b"\n",
            b"[",
            b"]",
            b"=",
            b":",
            b"%",
            b"sentinel ",
            b"requirepass ",
            b"\\",
            b"#",
            b";",
            b"9" * 30,
            "²".encode(),
            b"\xff",
            b"infinity",
            b"sleep 1",
            b"\x00",
            b"/",
        ),
        (
            Bug(
                "a quote that is open",
                edit(shell, "directives_of", ("with suppress(ValueError):", "with suppress(KeyError):")),
            ),
            Bug(
                "passwords are kept",
                edit(shell, "directives_of", ("if name in _KEPT or", "if 'pass' in name or name in _KEPT or")),
            ),
        ),
    ),
)
