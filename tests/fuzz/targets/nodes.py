"""What the commands `status`, `failover` and `doctor` are told by servers, up to what they print."""

from __future__ import annotations

import importlib
import io
import json
from typing import Any
from unittest import mock

from rich.console import Console

from evercache.errors import ConfigurationError, ServerError, UnavailableError
from evercache.ops import handover, survey
from evercache.ops.cli.doctor_show import doctor_as_json, doctor_as_tables
from evercache.ops.doctor import examine, snapshot
from evercache.ops.doctor.checks import replication
from evercache.ops.doctor.facts import ClientFacts, Facts, NodeFacts, SentinelFacts
from evercache.protocol import shapes
from evercache.protocol.types import Address
from evercache.url import parse_url
from tests.edits import edit
from tests.fuzz.target import JSON, RESP, Bug, Target, must
from tests.fuzz.targets.replies import decoded, packed
from tests.fuzz.targets.sentinels import ENTRIES
from tests.fuzz.targets.wires import WORDS

__all__ = ["TARGETS"]

#: The module, whose name in its package is its function's.
gather: Any = importlib.import_module("evercache.ops.doctor.gather")
_PLACE = parse_url("sentinel://user:pass-word@127.0.0.1:26379/mymaster")
_NODE, _OTHER, _SENTINEL = (Address("127.0.0.1", port) for port in (6379, 6380, 26379))


class _Told:
    """Answers every question with the next replies in the bytes; a connection that breaks where there are none."""

    def __init__(self, data: bytes) -> None:
        self.left = decoded(data, 64)

    def ask(self, *commands: Any) -> list[Any]:
        if len(self.left) < len(commands):
            raise UnavailableError("the connection was closed")
        told, self.left = self.left[: len(commands)], self.left[len(commands) :]
        return told

    def strictly(
        self, address: Address, options: object, *commands: Any, errors: bool = False, **_: Any
    ) -> list[Any]:
        told = self.ask(*commands)
        for reply in told:
            if isinstance(reply, ServerError) and not errors:
                raise reply
        return told


def _status(data: bytes) -> None:
    """The first byte says whether a sentinel is asked or a node."""
    told = _Told(data[1:])
    targets = survey.Targets(
        {"node-1": _NODE}, _PLACE.node_options, {"sentinel-1": _SENTINEL}, _PLACE.sentinel_options, "mymaster"
    )
    with mock.patch.object(survey, "ask", told.strictly), mock.patch.object(handover, "ask", told.strictly):
        if data[:1] == b"\x01":
            handover._promotable(targets, _SENTINEL)
            handover._settings(targets, _NODE)
            return
        sentinel = survey._sentinel("sentinel-1", _SENTINEL, targets)
        nodes = tuple(survey._node(name, _NODE, _PLACE.node_options) for name in ("node-1", "node-2"))
        master = survey._elected((sentinel,))
        said = survey.Survey(tuple(survey._judged(one, nodes, master) for one in nodes), (sentinel,), master)
        must(all(isinstance(one, str) for one in said.problems), "a problem without words")
        must(said.settled in (True, False) and said.whole in (True, False), "no verdict")


def _shown(facts: Facts) -> None:
    results = examine(facts)
    doctor_as_json(facts, results)
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(doctor_as_tables(facts, results, verbose=True))


def _gathered(told: _Told) -> tuple[SentinelFacts, tuple[NodeFacts, ...]]:
    """What a sentinel and two nodes told."""
    read: list[Address] = []

    def ask(self: Any, *commands: Any) -> list[Any]:
        replies = told.ask(*commands)
        read.extend(
            self.address
            for command, reply in zip(commands, replies, strict=True)
            if command[0] == "INFO" and isinstance(reply, bytes)
        )
        return replies

    with (
        mock.patch.object(gather._Talk, "__init__", _talk),
        mock.patch.object(gather._Talk, "ask", ask),
        mock.patch.object(gather._Talk, "close", nothing),
    ):
        sentinel = gather._sentinel(_SENTINEL, _PLACE)
        nodes = tuple(gather._node(address, _PLACE) for address in (_NODE, _OTHER))
    for one in (sentinel, *nodes):
        must(one.address not in read or "INFO" not in one.hidden, "a text of INFO was not read")
    return sentinel, nodes


def _doctor(data: bytes) -> None:
    sentinel, nodes = _gathered(_Told(data))
    named = [one.host for one in gather._mentioned([sentinel])]
    must(all(isinstance(one, str) for one in named), "a host that is no name")
    gather._listed(nodes), gather._named_nodes([sentinel], _PLACE), gather._others([sentinel], _PLACE)
    facts = Facts(
        ClientFacts(_PLACE.redacted(), "sentinel", "mymaster", 0.2, 0.25),
        (sentinel,),
        nodes,
        taken=1.0,
        seconds=0.1,
    )
    text = snapshot.dump(gather.scrubbed(facts, gather._secrets(_PLACE)))
    again = snapshot.read(text.encode(), "file")
    must(snapshot.dump(again) == text, "facts change when they are saved")
    _shown(again)


def nothing(self: Any) -> None: ...


def _talk(self: Any, address: Address, options: Any) -> None:
    self.address, self.options, self.hidden, self.end = address, options, {}, 0.0


def _snapshot(data: bytes) -> None:
    try:
        facts = snapshot.read(data, "file")
    except ConfigurationError:
        return
    _shown(snapshot.merged([facts, facts]))


_INFO = (
    "# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.1.2\r\nrun_id:abc\r\nprocess_id:7\r\nserver_time_usec:170"
    "\r\nuptime_in_seconds:700\r\nrole:master\r\nmaster_replid:abc\r\nmaster_repl_offset:99\r\nconnected_slaves:1\r\n"
    "slave0:ip=127.0.0.1,port=6380,state=online,offset=5,lag=0\r\nused_memory:1000\r\nmaxmemory:0\r\n"
    "maxmemory_policy:noeviction\r\ntotal_system_memory:100000\r\ndb0:keys=5,expires=0,avg_ttl=0\r\n"
    "instantaneous_ops_per_sec:5\r\nrepl_backlog_size:1048576\r\n"
)
_REPLICA = (
    "role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:up\r\nmaster_replid:abc\r\n"
    "master_last_io_seconds_ago:0\r\nslave_repl_offset:90\r\nslave_priority:100\r\nrun_id:def\r\nredis_version:7.2.4\r\n"
)
_CLIENTS = "id=3 addr=127.0.0.1:1 name=sentinel-c-cmd user=sentinel\nid=4 name= user=default\n"
_CONFIG = {"maxmemory": "0", "requirepass": "pass-word", "save": "3600 1", "min-replicas-to-write": "1", "dir": "/"}
_OF_SENTINEL = [
    "c" * 40,
    [ENTRIES[1]],
    {"resolve-hostnames": "no"},
    "run_id:x\r\nserver_time_usec:1700000000000000\r\n",
]
#: Commands that the users of the sentinels are tried with.
_DRY_RUNS = len(gather.SENTINEL_COMMANDS + gather._SINCE_VALKEY_9)
_OF_NODE = [["master", 9, []], _INFO, _CONFIG, "default", _CLIENTS, *["OK"] * _DRY_RUNS, "PONG"]
_OF_REPLICA = [["slave", "127.0.0.1", 6379, "connected", 9], _REPLICA, _CONFIG, "default", "", "PONG"]
_TOLD = packed(*_OF_SENTINEL, *ENTRIES[2:4], "OK 3 usable Sentinels")
_WORDS = (
    *WORDS,
    b"\x1e",
    "²".encode(),
    b"-1",
    b"1e999",
    b"nan",
    b"9" * 30,
    b"keys=",
    b"role:",
    b"\r\n",
    b"[/red]",
    b"[bold",
)


def _facts() -> bytes:
    sentinel, nodes = _gathered(_Told(_TOLD + packed(*_OF_NODE, *_OF_REPLICA)))
    facts = Facts(ClientFacts(_PLACE.redacted(), "sentinel", "mymaster", 0.2, 0.25), (sentinel,), nodes)
    must(not any(one.hidden for one in (sentinel, *nodes)), "a seed that is not understood")
    return json.dumps(json.loads(snapshot.dump(facts)), separators=(",", ":")).encode()


#: Both libraries make what they need at the first use, by code of their own.
_shown(snapshot.read(_facts(), "file"))

TARGETS = (
    Target(
        "status",
        _status,
        (
            b"\x00" + packed(*ENTRIES[:4], _INFO, _REPLICA),
            b"\x00" + packed("", "", "", "", _REPLICA, _REPLICA),
            b"\x01" + packed(ENTRIES[1], ENTRIES[2], {"replica-priority": "100"}, ["requirepass", "x"], [], {}),
            b"\x00-LOADING x\r\n" + packed("", "", "", _INFO.replace("db0", "db1"), _REPLICA),
        ),
        _WORDS,
        (
            Bug("INFO of any shape", edit(survey, "_node", ("with understood(str(address)):", "if True:"))),
            Bug("a replica of nobody", edit(survey, "_judged", ("if top else None", ""))),
        ),
        forms=RESP,
    ),
    Target(
        "doctor",
        _doctor,
        (_TOLD + packed(*_OF_NODE, *_OF_REPLICA),),
        _WORDS,
        (
            Bug(
                "a time of any shape",
                edit(
                    gather,
                    "_clock",
                    ('whole(info, "server_time_usec", -1)', 'int(info.get("server_time_usec", "-1"))'),
                ),
            ),
            Bug("lines of any shape", edit(shapes, "to_fields", ('if ":" in line', ""))),
        ),
        forms=RESP,
    ),
    Target(
        "snapshot",
        _snapshot,
        (_facts(),),
        (
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
            "²".encode(),
            b"[/red]",
            b"[bold",
        ),
        (
            Bug("any JSON is facts", edit(snapshot, "read", ("msgspec.MsgspecError, ", ""))),
            Bug(
                "any text is a number",
                edit(replication, "number", ("except (KeyError, ValueError)", "except KeyError")),
            ),
        ),
        forms=JSON,
    ),
)
