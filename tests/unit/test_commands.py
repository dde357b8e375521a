"""What is sent to the master."""

from __future__ import annotations

from hashlib import sha1
from typing import Any

import pytest

from evercache.errors import ConfigurationError, CorruptEnvelope
from evercache.protocol.commands import Bookkeeping, Commands, Limits, ScriptCall, mark_member
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash
from evercache.protocol.scripts import SCRIPTS

BOOK = Bookkeeping("shop", 2, 7)
COMMANDS = Commands(BOOK, Limits(10, 20, 30, 40), lambda: "11fe")
IT = Subject("shop:k", "m.f", (tag_hash("a"),))
HEAD: dict[str, Any] = {"replid": "r" * 40, "newest": 5}
ENVELOPE = b"\xe7\xca" + bytes(36)
WINDOW: dict[str, Any] = {"not_before_us": 7, "not_after_us": 8}
LIFE: dict[str, Any] = {"soft_ms": 100, "span_ms": 50}


def test_the_names_of_the_keys() -> None:
    assert BOOK.keys == ("shop~absent", "shop~state", "shop~marks", "shop~log", "shop~ids")
    assert BOOK.lease_key("shop:k") == "shop~lease:shop:k"


def test_a_script_goes_by_its_hash_and_then_whole() -> None:
    call = COMMANDS.tip(**HEAD)
    assert call.script is SCRIPTS["tip"]
    assert call.script.sha == sha1(call.script.text.encode()).hexdigest()
    rest = (5, *BOOK.keys, "1", "r" * 40, 2, 7, 5)
    assert call.evalsha() == ("EVALSHA", call.script.sha, *rest)
    assert call.eval() == ("EVAL", call.script.text, *rest)


def test_every_script_is_loaded_once_with_the_prelude() -> None:
    assert len({script.sha for script in SCRIPTS.values()}) == len(SCRIPTS) == 13
    for name, script in SCRIPTS.items():
        assert script.name == name
        assert script.text.startswith("-- What all scripts share")
        assert "-- What all scripts share" not in repr(script)
        assert "local bad = begin(" in script.text, "checks replica and generation first"


CALLS: dict[str, tuple[ScriptCall, tuple[Any, ...]]] = {
    "lease": (
        COMMANDS.lease(IT, least=9, token="aa", lease_ms=1000, seen="bb", expected_ms=3, not_after_us=8, **HEAD),
        (9, "m.f", 1, tag_hash("a").hex(), "aa", 1000, "bb", 3, "1", "11fe", 8, 30),
    ),
    "peek": (
        COMMANDS.peek(Subject("shop:k"), least=9, **HEAD),
        (9, "", 0, "", 0, "", 0, "0", "11fe", 0, 0),
    ),
    "renew": (COMMANDS.renew("shop:k", token="aa", lease_ms=10, **HEAD), ("aa", 10)),
    "release": (COMMANDS.release("shop:k", token="aa", **HEAD), ("aa",)),
    "store": (
        COMMANDS.store("shop:k", token="aa", stamp=4, envelope=ENVELOPE, **LIFE, **HEAD),
        ("aa", 4, 100, 50, ENVELOPE),
    ),
    "key": (
        COMMANDS.invalidate(Scope.of_key("shop:k"), id="cc", function="m.f", **HEAD),
        ("k", "shop:k", "cc", 10, 20, 30, 40, "11fe", "m.f"),
    ),
    "set": (
        COMMANDS.set(IT, id="cc", **WINDOW, envelope=ENVELOPE, mode="since", since=3, **LIFE, **HEAD),
        (0, "m.f", "since", "cc", 7, 8, 3, 100, 50, ENVELOPE, 1, tag_hash("a").hex(), 10, 20, 30, 40, "11fe"),
    ),
    "touch": (
        COMMANDS.touch(Subject("shop:k"), least=1, **WINDOW, **LIFE, **HEAD),
        (1, "", 0, 7, 8, 100, 50, 30),
    ),
    "incr": (
        COMMANDS.incr("shop:k", **WINDOW, id="cc", delta=-2, initial=6, **LIFE, **HEAD),
        (0, 7, 8, "cc", -2, 100, 50, 6, "11fe", 30),
    ),
    "sweep": (COMMANDS.sweep("shop:k", least=3, **HEAD), (3,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_about_an_entry(name: str) -> None:
    call, args = CALLS[name]
    assert call.keys == (*BOOK.keys, "shop:k", "shop~lease:shop:k")
    assert call.args == ("1", "r" * 40, 2, 7, 5, *args)


def test_calls_without_an_entry() -> None:
    wide = COMMANDS.invalidate(EVERYTHING, id="cc", **HEAD)
    assert wide.keys == (*BOOK.keys, BOOK.absent, BOOK.absent)
    assert wide.args[5:8] == ("*", "", "cc")
    assert COMMANDS.resync(newest=5).args == ("1", "", 2, 7, 5, "11fe")
    restore = COMMANDS.restore([("f:a", 1), ("t:b", 2)], everything=3, tagfloor=4, **HEAD)
    assert restore.keys == BOOK.keys
    assert restore.args[5:] == ("11fe", 3, 4, 2, "f:a", 1, "t:b", 2, 10, 20, 30, 40, 0)
    assert COMMANDS.tail("3-1", count=7, block_ms=90) == (
        "XREAD", "COUNT", 7, "BLOCK", 90, "STREAMS", "shop~log", "3-1",
    )  # fmt: skip


def test_the_members_of_the_marks() -> None:
    assert mark_member(Scope.of_function("m.f")) == "f:m.f"
    assert mark_member(Scope.of_tag("a")) == f"t:{tag_hash('a').hex()}"
    for scope in (EVERYTHING, Scope.of_key("shop:k")):
        with pytest.raises(ConfigurationError, match="only functions and tags"):
            mark_member(scope)


def write(**named: Any) -> ScriptCall:
    return COMMANDS.set(IT, **{"id": "c", "not_after_us": 8, "envelope": ENVELOPE, **LIFE, **HEAD, **named})


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"soft_ms": 0, "span_ms": 0}, ConfigurationError),
        ({"soft_ms": -50}, ConfigurationError),
        ({"span_ms": 2**32}, ConfigurationError),
        ({"span_ms": -1}, ConfigurationError),
        ({"since": -1}, ConfigurationError),
        ({"newest": 2**53}, ConfigurationError),
        ({"envelope": b"no envelope"}, CorruptEnvelope),
        ({"envelope": b"\xe7\xcb" + bytes(36)}, CorruptEnvelope),
    ],
)
def test_what_no_script_could_do_is_refused_at_once(named: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        write(**named)
    assert write(soft_ms=-49).args


def test_bounds() -> None:
    many = Subject("shop:k", "", tuple(bytes(8) for _ in range(256)))
    with pytest.raises(ConfigurationError, match="256 tags"):
        COMMANDS.peek(many, least=0, **HEAD)
    with pytest.raises(ConfigurationError, match="smaller step"):
        COMMANDS.incr("shop:k", not_after_us=8, id="c", delta=2**53, **LIFE, **HEAD)


def test_values_are_immutable() -> None:
    for value in (BOOK, COMMANDS.limits, COMMANDS.tip(**HEAD), SCRIPTS["tip"]):
        for name in type(value).__match_args__:
            with pytest.raises(AttributeError):
                setattr(value, name, None)
    with pytest.raises(TypeError):
        SCRIPTS["tip"] = SCRIPTS["set"]  # type: ignore[index]
