"""Names of keys of the drop-in for PyBossa: as the old code has them, and without its collisions."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from evercache.integrations.pybossa import get_hash_key, get_key_to_hash
from evercache.integrations.pybossa.keys import SiteNaming, function_name, named, old_key, old_pattern
from evercache.protocol.keys import CodedNaming, KeyCode, ReadableNaming, canonical


def test_the_text_to_hash() -> None:
    assert get_key_to_hash() == ""
    assert get_key_to_hash("a", "b") == ":a:b"
    assert get_key_to_hash(1, None, b=3, a=4) == ":1:None:4:3"
    assert get_key_to_hash("ä") == ":ä"


def test_the_hashed_key() -> None:
    digest = hashlib.md5(b":a:b", usedforsecurity=False).hexdigest()
    assert get_hash_key("p", ":a:b") == f"p:{digest}"
    assert old_key("pybossa_cache", "f", ("a", "b"), {}) == f"pybossa_cache:f_args::{digest}"


def f(x: Any = None) -> None: ...


def test_names_keep_their_shape() -> None:
    naming = SiteNaming("pybossa_cache")
    name = naming.function_name(f)
    assert re.fullmatch(r"pybossa_cache:f_args::[0-9a-f]{32}", naming.entry_key("n", name, "1"))
    assert naming.entry_key("n", named("front_page"), "") == "pybossa_cache::front_page"
    assert naming.direct_key("n", "front_page") == "pybossa_cache::front_page"


def test_what_shared_an_entry_does_so_no_more() -> None:
    naming = SiteNaming("p")

    def key(name: str, *values: object) -> str:
        return naming.entry_key("n", name, ",".join(map(canonical, values)))

    name = function_name(f)
    other = name.replace("test_pybossa_keys", "elsewhere")
    assert other != name
    keys = {key(name, 1), key(name, "1"), key(name, True), key(name, 1.0), key(name, "x", "y"), key(name, "x:y"),
            key(name, "x,y"), key(name, ("x", "y")), key(other, 1)}  # fmt: skip
    assert len(keys) == 9
    assert {k[: len("p:f_args::")] for k in keys} == {"p:f_args::"}


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_pattern_finds_the_entries_of_one_function(prefix: str, argument: str) -> None:
    naming = SiteNaming(prefix + "*[x]?")
    mine, other = "f@a.f", "f@b.f"
    head = naming.pattern(mine).removesuffix("*")
    plain = re.sub(r"\\(.)", r"\1", head, flags=re.S)
    assert naming.entry_key("n", mine, canonical(argument)).startswith(plain)
    assert not naming.entry_key("n", other, canonical(argument)).startswith(plain)


def test_the_pattern_of_the_old_code() -> None:
    assert fnmatch.fnmatchcase("p:f_args::0123", old_pattern("p", "f"))
    assert not fnmatch.fnmatchcase("p:g_args::0123", old_pattern("p", "f"))
    assert old_pattern("p*", "<lambda>") == r"p\*:<lambda>_args::*"


def test_the_code_for_keys_gives_the_same() -> None:
    naming = SiteNaming("p")
    assert isinstance(naming, CodedNaming)
    name = function_name(f)
    code = naming.code("n", name)
    assert isinstance(code, KeyCode)
    made = eval(f"lambda x: {code.source.format('{x!a}')}", dict(code.names))
    for value in (1, "1", "é'\"\\", None, -0.0):
        assert made(value) == naming.entry_key("n", name, canonical(value))
    one = naming.code("n", named("key"))
    assert one is not None
    assert eval(one.source, dict(one.names)) == "p::key"
    assert naming.code("n", named("k" * 300)) is None
    assert SiteNaming("p" * 230).code("n", name) is None


def test_a_naming_that_is_derived_from_the_usual_one_has_no_code() -> None:
    class Own(ReadableNaming):
        def entry_key(self, namespace: str, function_name: str, canonical_args: str) -> str:
            return f"own:{canonical_args}"

    assert ReadableNaming().code("n", "f") is not None
    assert Own().code("n", "f") is None
