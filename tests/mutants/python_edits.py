"""Wrong changes of Python code, found in its syntax tree and made in its text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.mutants.mutant import Edit

__all__ = ["blocks", "python_edits"]

_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: (r"is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
#: What people read has tests of its own; a change of a default or a number in it says nothing about a rule.
_UNREAD = ("__repr__", "__str__")
_LOGS = re.compile(r"_?log(ger|ging)?$", re.IGNORECASE)
_TYPES = ("annotation", "returns", "decorator_list", "type_params")


@dataclass(slots=True)
class _Finder:
    """Walks one tree. `context` is the statement or condition around the current node."""

    source: bytes
    found: list[Edit] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _scope: tuple[str, ...] = ()
    _context: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._starts = [0]
        for line in self.source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node stands, in bytes."""
        at: tuple[int, int, int, int] = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        return self._starts[at[0] - 1] + at[1], self._starts[at[2] - 1] + at[3]

    def text(self, node: ast.AST) -> bytes:
        """The text of a node."""
        start, end = self.span(node)
        return self.source[start:end]

    def add(self, operator: str, start: int, end: int, new: bytes) -> None:
        """One more edit, in the current context."""
        self.found.append(Edit(start, end, new, operator, ".".join(self._scope), self._context))

    # Statements.

    def body(self, statements: list[ast.stmt], *, whole: bool = False) -> None:
        """A block; `whole`: that of a function, at whose end nothing is skipped by leaving out a `return`."""
        for statement in statements:
            self._context = self.span(statement)
            if self._droppable(statement, whole):
                self.add("dropped statement", *self.span(statement), b"pass")
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        """A statement and all that is in it."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                if node.name in _UNREAD:
                    return
                if not isinstance(node, ast.ClassDef):
                    for default in (*node.args.defaults, *node.args.kw_defaults):
                        if default is not None:
                            self._context = self.span(default)
                            self.expression(default)
                outer, self._scope = self._scope, (*self._scope, node.name)
                self.body(node.body, whole=True)
                self._scope = outer
            case ast.If() | ast.While():
                if "TYPE_CHECKING" in ast.unparse(node.test):
                    return
                self.condition(node.test)
                self.body(node.body)
                self.body(node.orelse)
            case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Raise():
                return
            case ast.Expr(value=ast.Constant()):
                return
            case ast.Assign(targets=[ast.Name(id=name)]) if name.startswith("__"):
                return
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))) if _LOGS.match(name):
                return
            case _:
                self._inside(node)

    def _inside(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name in _TYPES:
                continue
            for child in value if isinstance(value, list) else [value]:
                match child:
                    case ast.stmt():
                        self.body(value)
                        break
                    case ast.expr():
                        if hasattr(node, "body") or isinstance(node, ast.withitem):  # the head of a block
                            self._context = self.span(child)
                        self.expression(child)
                    case ast.AST():
                        self._inside(child)

    def _droppable(self, node: ast.stmt, whole: bool) -> bool:
        match node:
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))) if _LOGS.match(name):
                return False
            case ast.Expr(value=ast.Call() | ast.Await(value=ast.Call())):
                return bool(self._scope)
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
                return bool(self._scope) and self._scope[-1] != "__init__"
            case ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Continue() | ast.Break():
                return bool(self._scope)
            case ast.Return():
                return not whole
            case _:
                return False

    # Expressions.

    def condition(self, node: ast.expr) -> None:
        """What an `if` or `while` asks. Of `==` and `is` the comparison itself is the negation."""
        self._context = start, end = self.span(node)
        match node:
            case ast.Constant():
                return
            case ast.UnaryOp(op=ast.Not()):
                self.add("negated condition", start, end, b"(" + self.text(node.operand) + b")")
            case ast.Compare(ops=[op]) if not isinstance(op, _ORDER):
                pass
            case _:
                self.add("negated condition", start, end, b"not (" + self.text(node) + b")")
        self.expression(node)

    def expression(self, node: ast.expr) -> None:
        """An expression and all that is in it."""
        match node:
            case ast.JoinedStr():  # its positions are not to be relied on before Python 3.12
                return
            case ast.Constant():
                self._constant(node)
            case ast.Compare():
                self._compare(node)
            case ast.BoolOp():
                swap = b"or" if isinstance(node.op, ast.And) else b"and"
                for left, right in zip(node.values, node.values[1:], strict=False):
                    self._between(left, right, r"\b(and|or)\b", "boolean", swap)
            case ast.BinOp(op=ast.Add() | ast.Sub()) if not (_is_text(node.left) or _is_text(node.right)):
                swap = b"-" if isinstance(node.op, ast.Add) else b"+"
                self._between(node.left, node.right, r"[+-]", "arithmetic", swap)
            case ast.IfExp():
                swapped = self.text(node.orelse), self.text(node.test), self.text(node.body)
                self.add("swapped branches", *self.span(node), b"%b if %b else %b" % swapped)
            case ast.Call(func=ast.Name(id="max" | "min"), args=[_, _, *_], keywords=[]):
                for argument in node.args:
                    if not isinstance(argument, ast.Starred):
                        self.add("dropped max or min", *self.span(node), b"(" + self.text(argument) + b")")
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                for test in [test for generator in node.generators for test in generator.ifs]:
                    self.add("negated condition", *self.span(test), b"(not (" + self.text(test) + b"))")
            case _:
                pass
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child)
            elif isinstance(child, ast.keyword) and child.arg == "strict":  # of `zip`: says what holds anyway
                continue
            elif isinstance(child, (ast.keyword, ast.comprehension, ast.arguments)):
                for inner in ast.iter_child_nodes(child):
                    if isinstance(inner, ast.expr):
                        self.expression(inner)

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add("constant", *self.span(node), b"%b" % str(not value).encode())
        elif isinstance(value, int):
            self.add("constant", *self.span(node), b"%d" % (value + 1))
        elif isinstance(value, float):
            self.add("constant", *self.span(node), repr(value * 2 or 1.0).encode())

    def _compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            pattern, new = _COMPARED[type(op)]
            self._between(left, right, pattern, "comparison", new.encode())
            if isinstance(op, _ORDER) and not (_is_text(left) or _is_text(right)):
                start, end = self.span(right)
                for step in (b" - 1", b" + 1"):
                    self.add("boundary", start, end, b"(" + self.text(right) + step + b")")

    def _between(self, left: ast.expr, right: ast.expr, pattern: str, operator: str, new: bytes) -> None:
        first, last = self.span(left)[1], self.span(right)[0]
        gap = re.sub(rb"#[^\n]*", lambda match: b" " * len(match[0]), self.source[first:last])
        match = re.search(pattern.encode(), gap)
        assert match is not None, (gap, pattern)
        self.add(operator, first + match.start(), first + match.end(), new)


def _is_text(node: ast.expr) -> bool:
    match node:
        case ast.JoinedStr() | ast.List() | ast.Tuple():
            return True
        case ast.Constant(value=str() | bytes()):
            return True
        case ast.BinOp():
            return _is_text(node.left) or _is_text(node.right)
        case _:
            return False


def python_edits(source: bytes) -> list[Edit]:
    """All edits of a file."""
    finder = _Finder(source)
    finder.body(ast.parse(source).body)
    return finder.found


def blocks(source: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each block within a function: its first and last line, and the line and column before which a statement can
    be put so that it runs whenever the block does."""

    def within(node: ast.AST, inside: bool) -> Iterator[tuple[int, int, int, int]]:
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, None)
            if not isinstance(inner, list):
                continue
            statements = [it for it in inner if isinstance(it, ast.stmt)]
            if inside and statements and not isinstance(node, ast.ClassDef):
                rest = statements[1:] if _is_docstring(statements[0]) else statements
                elif_ = name == "orelse" and isinstance(node, ast.If) and _is_elif(source, rest)
                if rest and not elif_:
                    line = min([rest[0].lineno, *(it.lineno for it in getattr(rest[0], "decorator_list", []))])
                    yield statements[0].lineno, statements[-1].end_lineno or line, line, rest[0].col_offset
            for child in inner:
                yield from within(child, inside)

    yield from within(ast.parse(source), False)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_elif(source: bytes, statements: list[ast.stmt]) -> bool:
    if len(statements) != 1 or not isinstance(statements[0], ast.If):
        return False
    line = source.splitlines()[statements[0].lineno - 1]
    return line[statements[0].col_offset :].startswith(b"elif")
