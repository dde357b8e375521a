"""The calls of scripts, one by one: a script that takes many entries counts as so many calls for the oracles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["singles"]

_KEYS = 5  # of the bookkeeping, before the entries

#: Reply, words (keys, of which number 5 is the entry, and arguments), what the entry was.
Single = tuple[list[Any], list[bytes], Any]


def singles(name: str, reply: list[Any], words: list[bytes], entries: list[Any]) -> Iterator[Single]:
    """Each entry of a call as a call of its own, whose reply and arguments have fixed places.

    lease: least, function, number of tags, tags, token, lease_ms, seen, expected_ms, take, life, not_after_us; the
    reply is status, time, replid, [tip, everything, function, tagfloor, [tags and marks]], ...
    set: least, function, mode, id, not_before_us, not_after_us, since, soft_ms, span_ms, envelope, number of tags,
    tags
    invalidate: kind, name, id
    """
    single = {"lease": _lease, "store": _store, "set": _set, "invalidate": _invalidate}.get(name)
    if single is None:
        yield reply, words, entries[0] if entries else None
    else:
        yield from single(reply, words, entries)


def _split(words: list[bytes], count: int) -> tuple[list[list[bytes]], list[bytes], list[bytes]]:
    """The keys of each entry, the common arguments, and the others."""
    keys, args = words[: _KEYS + 2 * count], words[_KEYS + 2 * count :]
    each = [[*keys[:_KEYS], keys[_KEYS + i], keys[_KEYS + count + i]] for i in range(count)]
    return each, args[:5], args[5:]


def _lease(reply: list[Any], words: list[bytes], entries: list[Any]) -> Iterator[Single]:
    keys, head, args = _split(words, len(entries))
    function, take, lease_ms, expected, not_after, _, life, *rest = args
    for i, entry in enumerate(entries):
        least, token, seen, number, *rest = rest
        tags, rest = rest[: int(number)], rest[int(number) :]
        status, *more = reply[7 + i]
        before = {b"lead": 2, b"wait": 4, b"entry": 1, b"held": 1}.get(status, 0)
        marks = [*reply[3:7], more[before:]]
        ask = [least, function, number, *tags, token, lease_ms, seen, expected, take, life, not_after]
        yield [status, *reply[1:3], marks, *more[:before]], [*keys[i], *head, *ask], entry


def _store(reply: list[Any], words: list[bytes], entries: list[Any]) -> Iterator[Single]:
    keys, head, args = _split(words, len(entries))
    for i, entry in enumerate(entries):
        item = reply[3 + i]
        status = b"ok" if isinstance(item, int) else b"refused"
        yield [status, *reply[1:3], item], [*keys[i], *head, *args[5 * i : 5 * i + 5]], entry


def _set(reply: list[Any], words: list[bytes], entries: list[Any]) -> Iterator[Single]:
    count = len(entries)
    keys, head, args = _split(words, count)
    mode, not_before, not_after = args[:3]
    ids, rest, tags = args[9 : 9 + count], args[9 + count : 9 + 8 * count], args[9 + 8 * count :]
    for i, entry in enumerate(entries):
        function, least, since, soft, span, envelope, number = rest[7 * i : 7 * i + 7]
        mine, tags = tags[: int(number)], tags[int(number) :]
        item = reply[3 + i] if reply[0] == b"ok" else reply[0]
        status, more = (b"ok", item) if isinstance(item, list) else (item, [])
        put = [least, function, mode, ids[i], not_before, not_after, since, soft, span, envelope, number, *mine]
        yield [status, *reply[1:3], *more], [*keys[i], *head, *put], entry


def _invalidate(reply: list[Any], words: list[bytes], entries: list[Any]) -> Iterator[Single]:
    keys, head, args = _split(words, len(entries))
    nth = 0
    for i, item in enumerate(reply[3:]):
        kind, name, id, _ = args[7 + 4 * i : 11 + 4 * i]
        mine, entry = [*words[:_KEYS], b"", b""], None
        if kind == b"k":
            mine, entry = keys[nth], entries[nth]
            nth += 1
        told = [b"ok", *reply[1:3], *item] if isinstance(item, list) else [b"dup", *reply[1:3], item]
        yield told, [*mine, *head, kind, name, id], entry
