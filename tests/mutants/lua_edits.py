"""Wrong changes of the scripts, found and made among the tokens of their Lua."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mutants.mutant import Edit

__all__ = ["lua_edits"]

_TOKEN = re.compile(
    r"""(?P<skip>\s+|--\[\[.*?\]\]|--[^\n]*)
    |(?P<string>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\[\[.*?\]\])
    |(?P<number>0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<op>\.\.\.|\.\.|==|~=|<=|>=|[-+*/%^\#<>=(){}\[\];:,.])""",
    re.VERBOSE | re.DOTALL,
)
_COMPARED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "~=", "~=": "=="}
_BINARY = {*_COMPARED, "+", "-", "*", "/", "%", "^", "..", "and", "or"}
_UNARY = {"not", "-", "#"}
_KEYWORDS = {
    *("and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil"),
    *("not", "or", "repeat", "return", "then", "true", "until", "while"),
}
_OPEN = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise ValueError(f"no token of Lua: {source[at : at + 20]!r}")
        at = match.end()
        if match.lastgroup and match.lastgroup != "skip":
            yield _Token(match.lastgroup, match[0], match.start(), match.end())


class _Script:
    """The tokens of one script, with a look ahead over whole expressions. One thread uses it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = [*_tokens(source), _Token("end", "", len(source), len(source))]

    def text(self, first: int, last: int) -> str:
        """The text of the tokens from `first` up to, not including, `last`."""
        return self.source[self.tokens[first].start : self.tokens[last - 1].end]

    def closing(self, at: int) -> int:
        """Where the bracket at a token closes."""
        depth = 0
        for index in range(at, len(self.tokens)):
            text = self.tokens[index].text if self.tokens[index].kind == "op" else ""
            depth += (text in _OPEN) - (text in _OPEN.values())
            if depth == 0:
                return index
        raise ValueError("a bracket is open at the end")

    def operand(self, at: int) -> int:
        """The token after an operand: a value with all calls and indices that follow."""
        while self.tokens[at].text in _UNARY and self.tokens[at].kind != "string":
            at += 1
        token = self.tokens[at]
        if token.text == "function":
            depth = 0
            while True:  # all that ends with an `end`: the `do` of a loop counts for the loop
                depth += self.tokens[at].text in ("function", "if", "do") and self.tokens[at].kind == "name"
                depth -= self.tokens[at].text == "end"
                at += 1
                if depth == 0:
                    return at
        at = self.closing(at) + 1 if token.kind == "op" and token.text in _OPEN else at + 1
        while (next_ := self.tokens[at]).kind == "op" and next_.text in ("(", "[", ".", ":"):
            at = at + 2 if next_.text in (".", ":") else self.closing(at) + 1
        return at

    def expression(self, at: int) -> int:
        """The token after an expression."""
        at = self.operand(at)
        while self.tokens[at].text in _BINARY and self.tokens[at].kind != "string":
            at = self.operand(at + 1)
        return at

    def expressions(self, at: int) -> int:
        """The token after a list of them."""
        at = self.expression(at)
        while self.tokens[at].text == ",":
            at = self.expression(at + 1)
        return at

    def begins_statement(self, at: int) -> bool:
        """Whether a token is the first of a call or an assignment."""
        token, before = self.tokens[at], self.tokens[at - 1] if at else None
        if token.kind != "name" or token.text in _KEYWORDS:
            return False
        if before is None or before.text in ("then", "do", "else", "repeat", ";"):
            return True
        line = self.source.count("\n", before.end, token.start)
        goes_on = before.kind == "op" and before.text not in (")", "]", "}")
        return bool(line) and not goes_on and before.text not in {*_BINARY, "not", "local", "return", "in"}


def _scopes(source: str) -> list[tuple[int, int, str]]:
    return [
        (match.start(), match.end(), match[1])
        for match in re.finditer(r"^(?:local )?function (\w+).*?^end$", source, re.MULTILINE | re.DOTALL)
    ]


def lua_edits(source: bytes) -> list[Edit]:
    """All edits of a script; it has no letters outside of ASCII."""
    script = _Script(source.decode("ascii"))
    scopes = _scopes(script.source)
    found: list[Edit] = []

    def add(operator: str, start: int, end: int, new: str) -> None:
        first = script.source.rfind("\n", 0, start) + 1
        last = script.source.find("\n", end)
        scope = next((name for begin, over, name in scopes if begin <= start < over), "")
        found.append(Edit(start, end, new.encode(), operator, scope, (first, last if last >= 0 else len(source))))

    for at, token in enumerate(script.tokens):
        if token.kind == "op" and token.text in _COMPARED:
            add("comparison", token.start, token.end, _COMPARED[token.text])
            if token.text in ("<", "<=", ">", ">="):
                right = script.operand(at + 1)
                while script.tokens[right].text in ("+", "-", "*", "/", "%"):
                    right = script.operand(right + 1)
                value, end = script.text(at + 1, right), script.tokens[right - 1].end
                for step in ("- 1", "+ 1"):
                    add("boundary", script.tokens[at + 1].start, end, f"({value} {step})")
        elif token.kind == "number":
            add("constant", token.start, token.end, str(int(token.text, 0) + 1))
        elif token.kind == "name" and token.text in ("true", "false"):
            add("constant", token.start, token.end, "false" if token.text == "true" else "true")
        elif token.kind == "name" and token.text in ("and", "or"):
            add("boolean", token.start, token.end, "or" if token.text == "and" else "and")
        elif token.kind == "op" and token.text in ("+", "-") and script.tokens[at - 1].text not in _BINARY | _UNARY:
            binary = script.tokens[at - 1].kind != "op" or script.tokens[at - 1].text in (")", "]")
            if binary and script.tokens[at - 1].text not in ("return", "not"):
                add("arithmetic", token.start, token.end, "-" if token.text == "+" else "+")
        elif token.kind == "name" and token.text in ("if", "elseif", "while"):
            end = script.expression(at + 1)
            only = [t for t in script.tokens[at + 1 : end] if t.text in _BINARY]
            if len(only) != 1 or only[0].text not in ("==", "~="):
                text = script.text(at + 1, end)
                plain = text.removeprefix("not ") if text.startswith("not ") and not only else f"not ({text})"
                add("negated condition", script.tokens[at + 1].start, script.tokens[end - 1].end, plain)
        elif token.text == "math" and script.tokens[at + 2].text in ("max", "min"):
            over = script.closing(at + 3)
            first = at + 4
            while first < over:
                last = script.expression(first)
                add("dropped max or min", token.start, script.tokens[over].end, f"({script.text(first, last)})")
                first = last + 1
        if script.begins_statement(at):
            end = script.operand(at)
            while script.tokens[end].text == ",":  # several are assigned at once
                end = script.operand(end + 1)
            if script.tokens[end].text == "=":
                end = script.expressions(end + 1)
            elif script.tokens[end - 1].text != ")":
                continue
            add("dropped statement", token.start, script.tokens[end - 1].end, "")
    return found
