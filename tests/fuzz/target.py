"""One parser under attack: what it is fed with, what must hold whatever that is, and a bug to try the hunters on.

The same target is driven by Hypothesis (`tests/fuzz/search.py`) and, guided by coverage, by atheris
(`tests/fuzz/guided.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.edits import Change
from tests.fuzz.guard import guarded

__all__ = ["JSON", "RESP", "TEXT", "Bug", "Form", "Target", "must"]


@dataclass(frozen=True, slots=True)
class Form:
    """What stands for one value in the input: changed as a whole, what is around it is still read."""

    pattern: re.Pattern[bytes]
    #: Values of other kinds, which may stand in its place.
    instead: tuple[bytes, ...] = ()


TEXT = (Form(re.compile(rb"[\w.]+")),)
#: A scalar that is no key, or what is between any quotes.
JSON = (
    Form(
        re.compile(rb'(?<=[ ,\[:])(?:"[^"]*"(?!:)|[\w.+-]+)'),
        (
            b"null",
            b"true",
            b"0",
            b"-1",
            b"1.5",
            b"1e999",
            b"NaN",
            b'""',
            b'"x"',
            b"[]",
            b"[[]]",
            b"{}",
            b'"\xc2\xb2"',
        ),
    ),
    Form(re.compile(rb'(?<=")\w[^"]*(?=")')),
)
#: A scalar with its sign and its end, or what it says; of the lines of INFO in it, what each says; a list's length.
RESP = (
    Form(
        re.compile(rb"[-+:,(_#][^\r\n]*\r\n"),
        (
            *(b"$-1\r\n", b"+x\r\n", b":5\r\n", b":-1\r\n", b",nan\r\n", b",inf\r\n", b"#t\r\n", b"$0\r\n\r\n"),
            *(b"-ERR x\r\n", b"*0\r\n", b"*1\r\n+x\r\n", b"%0\r\n", b"(" + b"9" * 30 + b"\r\n"),
        ),
    ),
    Form(re.compile(rb"(?<=[-+:,=\x1e])[^\r\n\x1e:,=]+")),
    Form(re.compile(rb"(?<=[*%])\d+(?=\r\n)"), tuple(b"%d" % length for length in range(7))),
)


@dataclass(frozen=True, slots=True)
class Bug:
    """One slip in a parser, made on purpose: both hunters must find it."""

    name: str
    change: Change


@dataclass(frozen=True, slots=True)
class Target:
    """`check` takes any bytes and raises for a broken promise: an error that is not documented, a wrong result.

    What holds for all of them stands in `guard`: bounded time and memory, and no code of the input's runs.
    """

    name: str
    check: Callable[[bytes], None]
    #: Inputs as they occur; hunters change them.
    seeds: tuple[bytes, ...]
    #: Pieces that a hunter puts in.
    words: tuple[bytes, ...]
    bugs: tuple[Bug, ...]
    #: What is mostly changed as a whole.
    forms: tuple[Form, ...] = TEXT
    #: What hunters found in former versions of the library.
    found: tuple[bytes, ...] = ()

    def run(self, data: bytes) -> None:
        """Feed it."""
        guarded(self.check, data)


def must(condition: object, what: str) -> None:
    """A promise; broken, it ends the run."""
    if not condition:
        raise AssertionError(what)
