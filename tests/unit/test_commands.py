"""What is sent to the master."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from hashlib import sha1
from typing import Any

import pytest
from lupa import lua51

from evercache.errors import ConfigurationError, CorruptEnvelope
from evercache.protocol.commands import Bookkeeping, Commands, Limits, ScriptCall, mark_member
from evercache.protocol.scope import EVERYTHING, Scope, Subject, tag_hash
from evercache.protocol.scripts import SCRIPTS, chunks

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


def test_a_script_is_made_of_what_it_runs() -> None:
    assert len({script.sha for script in SCRIPTS.values()}) == len(SCRIPTS) == 13
    for name, script in SCRIPTS.items():
        assert script.name == name
        assert script.text not in repr(script)
        assert "--" not in script.text, "neither comments nor parts that are not included"
        compared = script.text.index("if ARGV[2] ~= replid and ARGV[2] ~= '' then")
        assert script.text.index("'UNLINK', KEYS[1])") < compared, "checks replica and generation first"
        assert not re.search(r"call\('(SET|ZADD|XADD|HSET|SELECT)'", script.text[:compared])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_creates_no_function_that_it_does_not_call(name: str) -> None:
    text = SCRIPTS[name].text
    for function in re.findall(r"function (\w+)\(", text):
        assert len(re.findall(rf"\b{function}\(", text)) > len(re.findall(rf"function {function}\(", text)), (
            function
        )


def globals_of(code: bytes) -> Iterator[str]:
    """The names that compiled Lua 5.1 looks up, or sets, as global ones."""
    stream = io.BytesIO(code[12:])

    def size(of: str = "i") -> int:
        return int(struct.unpack(f"={of}", stream.read(struct.calcsize(f"={of}")))[0])

    def text() -> bytes:
        return stream.read(size("Q"))

    def function() -> Iterator[str]:
        text()
        stream.read(12)
        instructions = [size("I") for _ in range(size())]
        constants: list[bytes] = []
        for _ in range(size()):
            kind = stream.read(1)[0]
            constants.append(text() if kind == 4 else stream.read({0: 0, 1: 1, 3: 8}[kind]))
        for word in instructions:
            if word & 0x3F in (5, 7):  # GETGLOBAL, SETGLOBAL
                yield constants[word >> 14].rstrip(b"\0").decode()
        for _ in range(size()):
            yield from function()
        stream.read(4 * size())
        for _ in range(size()):
            text()
            stream.read(8)
        for _ in range(size()):
            text()

    return function()


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_knows_all_names_that_it_uses(name: str) -> None:
    """A name out of its scope, in a branch that is seldom run, would be looked up as a global one, and fail."""
    lua = lua51.LuaRuntime(encoding=None)
    compiled = lua.eval(b"function(text) return string.dump(assert(loadstring(text))) end")
    known = {"KEYS", "ARGV", "redis", "struct", "string", "math", "table", "type", "tonumber", "unpack", "ipairs"}
    assert set(globals_of(compiled(SCRIPTS[name].text.encode("latin-1")))) <= known


CALLS: dict[str, tuple[ScriptCall, tuple[Any, ...]]] = {
    "lease": (
        COMMANDS.lease(IT, least=9, token="aa", lease_ms=1000, seen="bb", expected_ms=3, not_after_us=8, **HEAD),
        ("m.f", "1", 1000, 3, 8, 30, "11fe", 9, "aa", "bb", 1, tag_hash("a").hex()),
    ),
    "peek": (
        COMMANDS.peek(Subject("shop:k"), least=9, **HEAD),
        ("", "0", 0, 0, 0, 0, "", 9, "", "", 0),
    ),
    "renew": (COMMANDS.renew("shop:k", token="aa", lease_ms=10, **HEAD), ("aa", 10)),
    "release": (COMMANDS.release("shop:k", token="aa", **HEAD), ("aa",)),
    "store": (
        COMMANDS.store("shop:k", token="aa", stamp=4, envelope=ENVELOPE, **LIFE, **HEAD),
        ("aa", 4, 100, 50, ENVELOPE),
    ),
    "key": (
        COMMANDS.invalidate(Scope.of_key("shop:k"), id="cc", function="m.f", **HEAD),
        (10, 20, 30, 40, 1, "11fe", 1, "k", "shop:k", "cc", "m.f"),
    ),
    "set": (
        COMMANDS.set(IT, id="cc", **WINDOW, envelope=ENVELOPE, mode="since", since=3, **LIFE, **HEAD),
        ("since", 7, 8, 10, 20, 30, 40, 1, "11fe", "cc", "m.f", 0, 3, 100, 50, ENVELOPE, 1, tag_hash("a").hex()),
    ),
    "touch": (
        COMMANDS.touch(Subject("shop:k"), least=1, **WINDOW, **LIFE, **HEAD, renewed="again"),
        (1, "", 7, 8, 100, 50, 2, 30, 0),
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
    assert wide.keys == BOOK.keys
    assert wide.args[5:] == (10, 20, 30, 40, 1, "11fe", 1, "*", "", "cc", "")
    assert COMMANDS.resync(newest=5).args == ("1", "", 2, 7, 5, "11fe")
    restore = COMMANDS.restore([("f:a", 1), ("t:b", 2)], everything=3, tagfloor=4, **HEAD)
    assert restore.keys == BOOK.keys
    assert restore.args[5:] == ("11fe", 3, 4, 10, 20, 30, 40, 1, 0, 2, "f:a", 1, "t:b", 2)
    assert COMMANDS.tail("3-1", count=7, block_ms=90) == (
        "XREAD", "COUNT", 7, "BLOCK", 90, "STREAMS", "shop~log", "3-1",
    )  # fmt: skip
    at_once = COMMANDS.tail("3-1", count=7, block_ms=0)
    assert at_once == ("XREAD", "COUNT", 7, "STREAMS", "shop~log", "3-1"), "BLOCK 0 would wait for ever"


def test_a_batch_is_cut_by_number_and_by_bytes() -> None:
    assert [len(part) for part in chunks(range(250))] == [100, 100, 50]
    assert not list(chunks([]))
    sizes = [1, 2**18, 1, 2**17, 2**17 - 1, 2**20, 2**18]
    assert list(chunks(sizes, lambda size: size)) == [[1], [2**18], [1, 2**17, 2**17 - 1], [2**20], [2**18]]


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
        for name in value.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(value, name, None)
    with pytest.raises(TypeError):
        SCRIPTS["tip"] = SCRIPTS["set"]  # type: ignore[index]
