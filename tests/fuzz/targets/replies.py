"""What scripts, the log and the marks answer, as RESP: the bytes go through the decoder, as on a wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from evercache.errors import UnavailableError
from evercache.net import greeting
from evercache.net.resp import PENDING, Decoder
from evercache.net.types import ConnectionOptions, Credentials
from evercache.protocol import loglines, replies
from evercache.protocol.freshness import Marks
from evercache.protocol.scope import Scope, Subject
from evercache.topology import facts
from tests.edits import edit
from tests.fuzz.target import RESP, Bug, Target, must
from tests.fuzz.targets.wires import WORDS

__all__ = ["TARGETS", "decoded", "packed"]

#: Stamps are below it, so that a script can count with them.
_MOST_STAMP = 1 << 53
_REPLID = "0123456789abcdef0123456789abcdef01234567"


def decoded(data: bytes, most: int = 16) -> list[Any]:
    """The replies in these bytes; those behind a break of the protocol never come."""
    decoder = Decoder()
    decoder.feed(data)
    found: list[Any] = []
    try:
        while len(found) < most and (reply := decoder.next()) is not PENDING:
            if type(reply) is not hiredis.PushNotification:
                found.append(reply)
    except UnavailableError:
        pass
    return found


#: What stands between the lines of INFO here, so that a text has no length in front of it: a hunter may change it.
_LINE_END = "\x1e"


def packed(*values: Any) -> bytes:
    """Values as a server may write them: words as simple strings, which hunters can change at any place."""
    return b"".join(map(_packed, values))


def _packed(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, float):
        return b",%a\r\n" % value
    if isinstance(value, dict):
        return b"%%%d\r\n" % len(value) + b"".join(packed(*pair) for pair in value.items())
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + packed(*value)
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"+%b\r\n" % str(value).replace("\r\n", _LINE_END).replace("\n", _LINE_END).encode()


_OF_MANY = ("parse_leases", "parse_stores", "parse_invalidates", "parse_sets")
_PARSERS: tuple[Callable[[Any], Any], ...] = (
    *(
        lambda reply, name=name: getattr(replies, name)(reply)
        for name in replies.__all__
        if name.startswith("parse_") and name not in _OF_MANY
    ),
    *(
        lambda reply, name=name, count=count: getattr(replies, name)(reply, count)
        for name in _OF_MANY
        for count in (1, 2)
    ),
)


def _scripts(data: bytes) -> None:
    for reply in decoded(data):
        for parse in _PARSERS:
            try:
                parse(reply)
            except UnavailableError:
                continue


def _stamp(stamp: int) -> None:
    must(0 <= stamp < _MOST_STAMP, f"{stamp!r:.40} is no stamp")


def _log(data: bytes) -> None:
    marks, subject = Marks(limit=8), Subject("fuzz:k:a", "app.f", (bytes(8),))
    for reply in decoded(data):
        try:
            lines = loglines.parse_log(reply)
        except UnavailableError:
            continue
        for line in lines:
            _stamp(line.stamp)
            ids = line.log_id.split("-")
            must(len(ids) == 2 and all(part.isascii() and part.isdigit() for part in ids), "an id that is none")
            must(all(int(part) < 10**20 for part in ids), "an id beyond what a server has")
            scope = line.scope
            marks.hear(scope, line.stamp, 0.0)
            must(scope.covers(subject) in (True, False), "a scope that covers nothing")
            if scope.covers(subject):
                must(not marks.fresh(line.stamp - 1, subject), "an entry outlived its invalidation")
        _known(marks)


def _known(marks: Marks) -> None:
    """What is written back to a server that lost its bookkeeping."""
    must(len(marks.keys) <= 8 and len(marks.functions) <= 8 and len(marks.tags) <= 8, "marks without end")
    for scope, stamp in marks.scopes():
        must(isinstance(scope, Scope), "a mark of nothing")
        _stamp(stamp)


def _marks(data: bytes) -> None:
    for reply in decoded(data):
        try:
            found = loglines.parse_marks(reply)
        except UnavailableError:
            continue
        marks = Marks(limit=8)
        for scope, stamp in found:
            _stamp(stamp)
            must(scope.kind in ("f", "t", "*"), "a mark of a kind that marks have not")
            marks.hear(scope, stamp, 0.0)
        _known(marks)


def _greeting(data: bytes) -> None:
    """The first byte says what is expected at the other end."""
    if not data:
        return
    options = ConnectionOptions(
        Credentials("user" if data[0] & 1 else None, "pass-word" if data[0] & 2 else None),
        db=data[0] >> 4,
        sentinel=bool(data[0] & 4),
    )
    told = decoded(data[1:], 32)
    greeter = greeting.greet(options)
    commands = next(greeter)
    try:
        while True:
            now, told = told[: len(commands)], told[len(commands) :]
            if len(now) < len(commands):
                return
            commands = greeter.send((now, 1.0))
    except StopIteration as done:
        said = done.value
        must(said.role in ("master", "slave", "sentinel"), "a role that nobody has")
        must(all(isinstance(part, int) for part in said.version), "a version that is none")
        must(isinstance(said.time_us, int) and said.time_us >= 0, "a time that is none")
    except UnavailableError as error:
        must("pass-word" not in str(error) or b"pass-word" in data, "a password in an error")


def _info(data: bytes) -> None:
    for text in (data, *(one for one in decoded(data) if isinstance(one, bytes))):
        try:
            said = facts.parse_replication(text)
        except UnavailableError:
            continue
        must(said.role in ("master", "slave"), "a role that nobody has")
        listed = [*said.replicas, *([said.master] if said.master else [])]
        must(all(0 <= one.port < 65536 for one in listed), "a port that is none")


_MARKS, _TAG = [10, 0, 5, 0], ["00112233445566aa", 9]
_HEAD = ["ok", 1_700_000_000_000_000, _REPLID]
_SERVER = "redis_version:7.2.4\r\nvalkey_version:9.1.2\r\nserver_mode:standalone\r\nrun_id:abc\r\n"
_REPLICATION = (
    "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n"
    f"slave0:ip=127.0.0.1,port=6380,state=online,offset=5,lag=0\r\n"
    f"master_replid:{_REPLID}\r\nmaster_replid2:{'0' * 40}\r\nmaster_repl_offset:99\r\n"
)
_REPLICA = (
    f"role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:up\r\nslave_repl_offset:7\r\n"
    f"slave_priority:100\r\nmaster_replid:{_REPLID}\r\nmaster_sync_in_progress:0\r\n"
)
_LINE = ["k", "f", "n", "app.f", "s", "7", "i", "id", "g", _REPLID, "p", "0-0", "v", "1"]
_TAGGED = {"k": "t", "n": "0011223344556677", "s": "8", "i": "j", "g": _REPLID, "p": "1-0"}
_DIGITS = (b"1" * 20, b"-1", b"1_0", "٣".encode(), b"1e300", b"nan", b"9007199254740993", b" 1", b"2", b"3", b"4")

TARGETS = (
    Target(
        "scripts",
        _scripts,
        (
            packed([*_HEAD, *_MARKS, ["miss"]], [*_HEAD, *_MARKS, ["late"], ["held", b""]]),
            packed([*_HEAD, *_MARKS, ["entry", b"bytes", *_TAG]], [*_HEAD, *_MARKS, ["lead", 11, b""], ["miss"]]),
            packed([*_HEAD, *_MARKS, ["wait", 100, 5, 20, b"stale", *_TAG]], [*_HEAD, "full", 1_700_000_060_000]),
            packed([*_HEAD, [7, 1, "3-1"], 9], [*_HEAD, [9, 0, 1_700_000_060_000], "exists"], ["GEN", 5, _REPLID]),
            packed([*_HEAD, 12, 0, 0, f"{_REPLID}:0,{_REPLID}:7", "4-0", "life"]),
        ),
        (*WORDS, *_DIGITS, b"GEN", b"entry", b":,:"),
        (
            Bug("items of any shape", edit(replies, "_item", ("or len(value) < least", ""))),
            Bug(
                "a number of any shape",
                edit(replies, "to_int", ("except (TypeError, ValueError, OverflowError)", "except TypeError")),
            ),
        ),
        forms=RESP,
    ),
    Target(
        "log",
        _log,
        (
            packed([["fuzz:log", [["1-0", _LINE], ["2-0", _LINE]]]], None),
            *(packed([["l", [["1-0", ["k", kind, "n", "a", "s", "7"]]]]]) for kind in "fkt*x"),
            packed({"fuzz:log": [["3-1", _LINE], ["4-0", _LINE[:6]]]}),
            packed([["fuzz:log", [["5-0", [part for pair in _TAGGED.items() for part in pair]]]]]),
        ),
        (*WORDS, *_DIGITS, b"k", b"t", b"*", b"s", b"v"),
        (
            Bug("a line of any shape", edit(loglines, "_line", ("if not _is_pair(entry):", "if not entry:"))),
            Bug("a stamp below nothing", edit(loglines, "_line", ("not 0 <= line.stamp < _MOST_STAMP", "False"))),
        ),
        forms=RESP,
    ),
    Target(
        "marks",
        _marks,
        (
            packed(["f:app.f", "7", "t:0011223344556677", "8"]),
            packed([["f:app.f", 7.0], ["t:0011223344556677", 8.0], ["x:new", 9.0]]),
        ),
        (*WORDS, *_DIGITS, b"f:", b"t:", b"*:"),
        (
            Bug("pairs of any length", edit(loglines, "parse_marks", ("if not _is_pair(pair):", "if not pair:"))),
            Bug("a score of any kind", edit(loglines, "parse_marks", ("ValueError, OverflowError", "ValueError"))),
        ),
        forms=RESP,
    ),
    Target(
        "greeting",
        _greeting,
        (
            b"\x03" + packed({"server": "valkey"}, "OK", "OK", _SERVER, _REPLICATION, ["1700000000", "5"]),
            b"\x10" + packed({"server": "valkey"}, "OK", "OK", "OK", _SERVER, _REPLICA, ["1700000000", "5"]),
            b"\x05" + packed({"server": "redis"}, "OK", "OK", _SERVER.replace("standalone", "sentinel")),
            b"\x02-ERR unknown command 'HELLO'\r\n"
            + packed(
                *["OK"] * 2, _SERVER, _REPLICATION, ["1", "2"], *["OK"] * 4, _SERVER, _REPLICATION, ["1", "2"]
            ),
        ),
        (*WORDS, *_DIGITS, b"role:", b"redis_mode:cluster", b"\r\n-NOAUTH x\r\n"),
        (
            Bug("a time of any shape", edit(greeting, "parse_time", ("if seconds.isdigit() and", "if"))),
            Bug(
                "INFO of any shape",
                edit(greeting, "_fields", ("if not isinstance(info, bytes):", "if info is None:")),
            ),
        ),
        forms=RESP,
    ),
    Target(
        "replication",
        _info,
        (_REPLICATION.encode(), _REPLICA.encode(), packed(_REPLICA, _REPLICATION)),
        (*_DIGITS, b":", b"\r\n", b"slave1:", b"ip=", b"port=", b"state=online", b"role:master\r\n"),
        (
            Bug(
                "a field that is missing",
                edit(facts, "parse_replication", ("KeyError, ", "")),
            ),
            Bug(
                "a number that is none",
                edit(facts, "parse_replication", (", ValueError", "")),
            ),
        ),
        forms=RESP,
    ),
)
