"""What is known of raw commands: how long they block, and which keys they touch."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from evercache.raw.commands import KeyTable, Touch, blocks, words
from evercache.raw.writes import Writes

READ, WRITE = [b"readonly"], [b"write", b"denyoom"]
REPLY: list[Any] = [
    [b"get", 2, READ, 1, 1, 1],
    [b"set", -3, {b"write"}, 1, 1, 1],
    [b"mget", -2, READ, 1, -1, 1],
    [b"mset", -3, WRITE, 1, -1, 2],
    [b"blpop", -3, WRITE, 1, -2, 1],
    [b"flushall", -1, WRITE, 0, 0, 0],
    [b"ping", -1, [b"fast"], 0, 0, 0],
    [b"zunionstore", -4, [b"write", b"movablekeys"], 1, 1, 1],
    [b"zunion", -3, [b"readonly", b"movablekeys"], 0, 0, 0],
    [b"xgroup", -2, [], 0, 0, 0, [], [], [], [[b"xgroup|create", -5, WRITE, 2, 2, 1]]],
    ["odd"],
]


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        (("GET", "a"), 0),
        (("BLPOP", "a", "b", 2.5), 2.5),
        (("blpop", "a", 0), inf),
        ((b"BLPOP", b"a", b"3"), 3),
        (("BLMPOP", 1.5, 1, "a", "LEFT"), 1.5),
        (("WAIT", 1, 500), 0.5),
        (("WAIT", 1, 0), inf),
        (("XREAD", "COUNT", 5, "BLOCK", 250, "STREAMS", "a", "$"), 0.25),
        (("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "a", ">"), inf),
        (("XREAD", "STREAMS", "a", "0"), 0),
        (("BLPOP", "a", "soon"), 0),
        (("BLMPOP",), 0),
    ],
)
def test_how_long_a_command_blocks(command: tuple[Any, ...], seconds: float) -> None:
    assert blocks(words(command)) == seconds


@pytest.mark.parametrize(
    ("command", "touch"),
    [
        (("GET", "a"), Touch(False, (b"a",))),
        (("SET", b"a", 1), Touch(True, (b"a",))),
        (("MGET", "a", "b", "c"), Touch(False, (b"a", b"b", b"c"))),
        (("MSET", "a", 1, "b", 2), Touch(True, (b"a", b"b"))),
        (("BLPOP", "a", "b", 0), Touch(True, (b"a", b"b"))),
        (("FLUSHALL",), Touch(True, None)),
        (("PING",), Touch(False, ())),
        (("ZUNIONSTORE", "d", 1, "a"), Touch(True, None)),
        (("ZUNION", 1, "a"), Touch(False, None)),
        (("EVAL", "...", 2, "a", "b", "c"), Touch(True, (b"a", b"b"))),
        (("EVALSHA", "...", 0), Touch(True, None)),
        (("EVALSHA_RO", "...", 1, "a"), Touch(False, (b"a",))),
        (("FCALL", "f", "many"), Touch(True, None)),
        (("XGROUP CREATE", "a", "g", "$"), Touch(True, (b"a",))),
        (("NEW.COMMAND", "a"), Touch(True, None)),
    ],
)
def test_which_keys_a_command_touches(command: tuple[Any, ...], touch: Touch) -> None:
    assert KeyTable.of(REPLY).touch(words(command)) == touch


@pytest.mark.parametrize("reply", [None, b"", [], [None], [[b"get"]]])
def test_an_odd_reply_leaves_everything_unknown(reply: Any) -> None:
    assert KeyTable.of(reply).touch(("GET", "a")) == Touch(True, None)


def test_needed_is_the_moment_of_the_newest_write_of_a_key() -> None:
    writes = Writes(10.0)
    writes.table = KeyTable.of(REPLY)
    assert writes.needed([("GET", "a")]) == -inf
    writes.wrote(writes.keys_of([("SET", "a", 1), ("GET", "c")]), 5.0)
    writes.wrote(writes.keys_of([("SET", "b", 1)]), 7.0)
    writes.wrote(writes.keys_of([("GET", "c")]), 9.0)
    assert writes.needed([("GET", "a")]) == 5.0
    assert writes.needed([("MGET", "a", "b")]) == 7.0
    assert writes.needed([("GET", "a"), ("GET", "b")]) == 7.0
    assert writes.needed([("GET", "c")]) == -inf
    assert writes.needed([("ZUNION", 1, "a")]) == 7.0, "its keys are not known"
    assert writes.needed([("PING",)]) == 7.0, "KEYS and DBSIZE have none either"
    writes.wrote(writes.keys_of([("FLUSHALL",)]), 8.0)
    assert writes.needed([("GET", "c")]) == 8.0


def test_before_a_server_told_its_commands_everything_counts() -> None:
    writes = Writes(10.0)
    assert writes.keys_of([("GET", "a")]) is None
    writes.wrote(None, 3.0)
    assert writes.needed([("GET", "b")]) == 3.0


def test_what_is_remembered_is_bounded() -> None:
    writes = Writes(10.0)
    writes.table = KeyTable.of(REPLY)
    for number in range(30_000):
        writes.wrote(frozenset({b"%d" % number}), float(number) / 1000)
    assert len(writes._stamps) <= 10_000
    assert writes.needed([("GET", "29999")]) >= 29.999
    assert writes.needed([("GET", "29000")]) >= 29.0
