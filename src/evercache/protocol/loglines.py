"""The lines of the log and the pages of marks, as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from evercache.errors import ServerError
from evercache.protocol.scope import ALL, FUNCTION, TAG, Scope, known
from evercache.protocol.shapes import to_int, to_str, wrong
from evercache.protocol.types import Reply

__all__ = ["LogLine", "parse_log", "parse_marks"]

_LOG_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_TAG = re.compile(r"[0-9a-f]{16}")
#: Stamps are below it: the scripts count in doubles.
_MOST_STAMP = 1 << 53


class LogLine(Struct, frozen=True):
    """One line of the log. `previous` is the id of the line before (`0-0` for the first)."""

    log_id: str
    version: int
    kind: str
    name: str
    stamp: int
    id: str
    generation: str
    previous: str

    @property
    def scope(self) -> Scope:
        """What the line invalidates; everything, where it is of a later version or of an unknown kind."""
        return known(self.kind, self.name, self.version)


def parse_marks(reply: Reply) -> tuple[tuple[Scope, int], ...]:
    """A page of marks (RESP2: flat; RESP3: pairs). A member of an unknown kind covers everything."""
    if isinstance(reply, ServerError):
        raise reply
    if not isinstance(reply, list):
        raise wrong("marks", reply)
    if reply and isinstance(reply[0], list):
        pairs: list[Sequence[Any]] = reply
    else:
        pairs = [reply[i : i + 2] for i in range(0, len(reply), 2)]
    marks = []
    for pair in pairs:
        if not _is_pair(pair):
            raise wrong("marks", reply)
        kind, _, name = to_str(pair[0]).partition(":")
        known = kind == FUNCTION or (kind == TAG and _TAG.fullmatch(name))
        # Scores of RESP2 may come as text with an exponent; they are whole and below 2**53.
        try:
            stamp = int(float(pair[1]))
        except (TypeError, ValueError, OverflowError):
            raise wrong("a stamp", pair[1]) from None
        if not 0 <= stamp < _MOST_STAMP:
            raise wrong("a stamp", pair[1])
        marks.append((Scope(kind, name) if known else Scope(ALL), stamp))
    return tuple(marks)


def parse_log(reply: Reply) -> tuple[LogLine, ...]:
    """The lines of one log, from `XREAD` (RESP2: list; RESP3: dict; None: no line came).

    Unknown fields are ignored, and a kind that is not known is kept: its scope covers everything. A line
    that can't be read raises `ProtocolError`: nothing less than a resync is safe then.
    """
    if isinstance(reply, ServerError):
        raise reply
    if reply is None:
        return ()
    streams = list(reply.values()) if isinstance(reply, dict) else reply
    if not isinstance(streams, list):
        raise wrong("a log", reply)
    lines: list[LogLine] = []
    for stream in streams:
        entries = stream if isinstance(reply, dict) else stream[1] if _is_pair(stream) else None
        if not isinstance(entries, list):
            raise wrong("a log", reply)
        lines.extend(_line(entry) for entry in entries)
    return tuple(lines)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _line(entry: Any) -> LogLine:
    if not _is_pair(entry):
        raise wrong("a log line", entry)
    log_id, flat = entry
    if isinstance(flat, dict):
        pairs = list(flat.items())
    elif isinstance(flat, list) and len(flat) % 2 == 0:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
    else:
        raise wrong("a log line", entry)
    fields = {to_str(name): value for name, value in pairs}
    kind, name = to_str(fields.get("k", "")), to_str(fields.get("n", ""))
    if kind == TAG and not _TAG.fullmatch(name):
        kind = ALL  # a tag that can't be told from others: all of them, and more
    line = LogLine(
        log_id=to_str(log_id),
        version=to_int(fields.get("v", 1)),
        kind=kind,
        name=name,
        stamp=to_int(fields.get("s")),
        id=to_str(fields.get("i", "")),
        generation=to_str(fields.get("g", "")),
        previous=to_str(fields.get("p", "")),
    )
    if not _LOG_ID.fullmatch(line.log_id) or not 0 <= line.stamp < _MOST_STAMP:
        raise wrong("a log line", entry)
    return line
