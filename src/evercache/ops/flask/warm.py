"""`flask cache warm`: has calls of functions and views cached before the first visitors come."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flask import Flask
from werkzeug.utils import import_string

from evercache.integrations.flask.memoize import Memo
from evercache.integrations.flask.names import SEEN
from evercache.ops.warm.pace import Outcome, Task
from evercache.process import living

__all__ = ["BadLine", "Call", "Warmer", "parse", "tasks"]


@dataclass(frozen=True, slots=True)
class Call:
    """One line: a path, or a function with its arguments."""

    line: int
    function: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no call, and why."""

    line: int
    why: str


def parse(lines: Iterable[str], function: str = "") -> Iterator[Call | BadLine]:
    """The calls of a file (docs/flask.md has its format); `function` is that of lines that name none."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            yield _call(number, text, function)
        except ValueError as error:
            yield BadLine(number, str(error))


def _call(number: int, text: str, function: str) -> Call:
    if text.startswith("/") and not function:
        return Call(number, path=text)
    try:
        given = json.loads(text)
    except ValueError:
        if not function or text[0] in '{["':
            raise ValueError("it is no JSON" + ("" if function else ", and no path beginning with /")) from None
        given = text
    if isinstance(given, dict) and not function:
        return _named(number, given)
    if not function:
        raise ValueError('it names no function: give --function, or {"function": ..., "args": [...]}')
    if isinstance(given, dict):
        return Call(number, function, kwargs=given)
    return Call(number, function, tuple(given) if isinstance(given, list) else (given,))


def _named(number: int, given: dict[str, Any]) -> Call:
    known = {"path", "headers"} if "path" in given else {"function", "args", "kwargs"}
    if odd := sorted(given.keys() - known):
        raise ValueError(f"{odd[0]!r} has no meaning here: use {', '.join(sorted(known))}")
    name, path = given.get("function", ""), given.get("path", "")
    args, kwargs, headers = given.get("args", []), given.get("kwargs", {}), given.get("headers", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(headers, dict):
        raise ValueError("args is a list, kwargs and headers are objects")
    if "path" in given:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError("path is a text that begins with /")
        return Call(number, path=path, headers={str(name): str(value) for name, value in headers.items()})
    if not isinstance(name, str) or not name:
        raise ValueError('it has neither "path" nor "function"')
    return Call(number, name, tuple(args), kwargs)


class Warmer:
    """Runs the calls of an application. Safe for threads: `_memos` is only added to."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._memos: dict[str, Memo] = {}

    def __repr__(self) -> str:
        return f"<Warmer of {self._app!r}>"

    def run(self, call: Call) -> Outcome:
        """Have a call cached, unless it is. Whatever it raises is in the outcome."""
        try:
            return self._request(call) if call.path else self._function(call)
        except Exception as error:  # the application's own
            return Outcome(call.line, "failed", f"{type(error).__name__}: {error}")

    def _function(self, call: Call) -> Outcome:
        memo = self.memo(call.function)
        with self._app.app_context():
            if memo.is_cached(call.args, call.kwargs):
                return Outcome(call.line, "cached")
            memo.wrapper(*call.args, **call.kwargs)
        return Outcome(call.line, "warmed")

    def _request(self, call: Call) -> Outcome:
        seen: list[bool] = []
        client = self._app.test_client(use_cookies=False)
        with client.get(call.path, headers=dict(call.headers), environ_overrides={SEEN: seen}) as response:
            status = response.status_code
        if status >= 400:
            return Outcome(call.line, "failed", f"{call.path} answered {status}")
        if not seen:
            return Outcome(call.line, "failed", f"no cached view answered {call.path}, or its unless= said so")
        return Outcome(call.line, "cached" if all(seen) else "warmed")

    def memo(self, name: str) -> Memo:
        """The memoized function of a name, whole or its last parts; LookupError says what is wrong with it."""
        if name not in self._memos:
            self._memos[name] = self._find(name)
        return self._memos[name]

    def _find(self, name: str) -> Memo:
        dotted = name.replace(":", ".")
        caches: Iterable[Any] = self._app.extensions.get("cache", {})
        memos: list[Memo] = [memo for cache in caches for memo in living(cache._memos) if memo.wrapper]
        whole = {memo.plain_name: memo for memo in memos}
        if dotted in whole:
            return whole[dotted]
        found = import_string(name, silent=True) if "." in dotted else None
        memo: object = getattr(found, "_evercache_memo", None)
        if isinstance(memo, Memo):
            return memo
        ends = sorted(one for one in whole if one.endswith(f".{dotted}"))
        if len(ends) == 1:
            return whole[ends[0]]
        if ends:
            raise LookupError(f"{name!r} is the name of several: {', '.join(ends)}")
        known = f"; there are {', '.join(sorted(whole)[:10])}" if whole else ""
        raise LookupError(f"no memoized function {name!r} is imported by the application{known}")


def tasks(warmer: Warmer, calls: Iterable[Call | BadLine]) -> Iterator[Task]:
    """What is to be run for these calls."""
    for call in calls:
        if isinstance(call, BadLine):
            yield Task(partial(_told, Outcome(call.line, "failed", call.why)), 0)
        else:
            yield Task(partial(_run, warmer, call))


def _told(outcome: Outcome) -> tuple[Outcome]:
    return (outcome,)


def _run(warmer: Warmer, call: Call) -> tuple[Outcome]:
    return (warmer.run(call),)
