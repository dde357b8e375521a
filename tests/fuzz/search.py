"""Hypothesis as a hunter: seeds cut, repeated and mixed with words, and bytes out of nothing."""

from __future__ import annotations

import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Form, Target

__all__ = ["inputs", "search"]

#: No input is longer: what is slow at this length is slow at any.
MOST_BYTES = 1 << 16


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Bytes that come near to what the target reads, mostly."""
    words = st.sampled_from(target.words)

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(target.seeds + target.found))
        for _ in range(draw(st.integers(0, 3))):
            start, end, instead = _place(draw, data, target.forms)
            fitting = instead and draw(st.integers(0, 3))
            piece = st.sampled_from(instead) if fitting else _piece(data[start:end], words)
            data = (data[:start] + draw(piece) + data[end:])[:MOST_BYTES]
        return data

    loose = st.lists(st.one_of(words, st.binary(max_size=4)), max_size=12).map(b"".join)
    return st.one_of(changed(), changed(), changed(), loose, st.binary(max_size=64))


#: Any sign at all, with the letters that stand together.
_TOKEN = Form(re.compile(rb"[\w.]+|\r\n|[^\w.]", re.DOTALL))
#: Where something to change is looked for, in bytes: changes may have made the input long.
_LOOKED_AT = 8192


def _place(draw: st.DrawFn, data: bytes, forms: tuple[Form, ...]) -> tuple[int, int, tuple[bytes, ...]]:
    """Where the next change is made, mostly at a value; and the values that fit there."""
    kind = draw(st.integers(0, 5))
    if kind:
        form = draw(st.sampled_from(forms)) if kind > 2 else _TOKEN
        found = [match.span() for match in form.pattern.finditer(data[:_LOOKED_AT])]
        if found:
            start, end = draw(st.sampled_from(found))
            return start, end, form.instead
    start = draw(st.integers(0, len(data)))
    return start, min(len(data), start + draw(st.integers(0, 12))), ()


#: What stands in the place of a number: none, too small, too large, and digits that only Python takes for some.
_NUMBERS = (b"0", b"-1", b"3", b"65536", b"99999", b"9007199254740993", b"9" * 30, b"1e300", b"nan", "²".encode())


def _piece(there: bytes, words: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """What stands there then: something else, nothing, or the same with something, or again and again."""
    times = st.sampled_from((2, 10, 1000, 6000))
    if there.isdigit():
        words = st.one_of(st.sampled_from(_NUMBERS), words)
    return st.one_of(
        words,
        words,
        words,
        st.binary(max_size=4),
        st.just(b""),
        words.map(lambda word: word + there),
        words.map(lambda word: there + word),
        times.map(lambda count: there * count),
    )


def search(target: Target, examples: int, *, shrink: bool = True) -> None:
    """Run so many inputs, always the same ones; raises what the target raises, for the smallest input that does."""
    from hypothesis import Phase

    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target))
    def hunt(data: bytes) -> None:
        target.run(data)

    hunt()
