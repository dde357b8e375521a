"""Where replies begin and end, as far as it takes to see how many items a list of them announces.

The parser (hiredis) makes a list as soon as its length has come. A peer that writes `*4000000000` and no more would
have it make one of 32 GB, and give it up again, for many seconds in which no other thread runs. So lengths are
looked at first.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Frames", "plain"]

#: A list has less than ten million items: seven digits, and the sign before them.
_LONGEST_HEAD: Final = 8
#: Of a line that has not come to its end, so much is kept: what it is, and more than any length has.
_KEPT: Final = 32
#: Digits of the length of a string: the parser takes what 63 bits hold, and waits for it.
_LONGEST_LENGTH: Final = 19
_STRINGS: Final = frozenset(b"$=")
_STAR, _PERCENT, _MORE, _TILDE, _BAR = b"*%>~|"
_LISTS: Final = frozenset(b"*%>~|")


class Frames:
    """Follows one stream of replies, of which strings are stepped over. No lock: it belongs to one connection."""

    __slots__ = ("_line", "_skip", "open")

    def __init__(self) -> None:
        #: Bytes of a string that have still to come.
        self._skip = 0
        #: The beginning of a line whose end has not come.
        self._line = b""
        #: How many items have still to come of each list that is not complete, the innermost last.
        self.open: list[int] = []

    def __repr__(self) -> str:
        return f"<Frames skip={self._skip} line={self._line!r}>"

    def begin(self) -> None:
        """The next byte is the first of a reply, or of an item."""
        self._skip, self._line = 0, b""

    def take(self, data: bytes) -> int:
        """How many of these bytes may be parsed: fewer than came where a line in them announces what cannot be."""
        at, held = self._skip, len(self._line)
        if held:
            data = self._line + data
            self._line = b""
        size = len(data)
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                rest = data[at:]
                # The dot keeps a return that ends what is kept from the line feed that may come.
                self._line = rest if len(rest) <= _KEPT else rest[:_KEPT] + b"." + rest[-1:]
                at = size
                break
            kind = data[at]
            if kind in _STRINGS:
                length = data[at + 1 : end]
                if length.isdigit() and len(length) <= _LONGEST_LENGTH:
                    at = end + 4 + int(length)
                elif length == b"-1":
                    at = end + 2
                else:
                    return max(at - held, 0)
                if self.open:
                    self._count(0)
            elif end - at > _LONGEST_HEAD and kind in _LISTS:
                return max(at - held, 0)
            else:
                if kind in _LISTS:
                    self._count(_items(kind, data[at + 1 : end]))
                elif self.open:
                    self._count(0)
                at = end + 2
        self._skip = at - size
        return size - held

    def _count(self, items: int) -> None:
        """A list of so many items begins; or, with 0, something has come that has none."""
        if items:
            self.open.append(items)
            return
        while self.open:
            self.open[-1] -= 1
            if self.open[-1]:
                break
            self.open.pop()


def _items(kind: int, length: bytes) -> int:
    count = int(length) if length.isdigit() else 0
    return 2 * count if kind in (_PERCENT, _BAR) else count


def plain(data: bytes) -> bool:
    """Whether no list can begin in these bytes: nearly always so, and told in a fraction of a microsecond."""
    return not (_STAR in data or _PERCENT in data or _MORE in data or _TILDE in data or _BAR in data)
