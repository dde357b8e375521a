"""The scripts of `protocol/scripts/`, in Python: the same arguments, the same replies.

The Lua text is the original; a test drives both with the same calls. What a script does step by step, and
why, is said there.
"""

from __future__ import annotations

from collections.abc import Callable

from evercache.errors import ServerError
from evercache.net.memory_call import (
    HEADER,
    LIMIT,
    MAGIC,
    REMEMBERED_MS,
    SKEW_MS,
    Call,
    expiries,
    parse,
    patched,
)
from evercache.protocol.envelope import RENEWED
from evercache.protocol.types import Reply

__all__ = ["PORTS"]


def _lease(call: Call) -> Reply:
    name, asks, lease_ms, expected_ms = call.text(), call.text() == b"1", call.number(), call.number()
    not_after_us, marks_ms, life = call.number(), call.number(), call.text()
    late = asks and 0 < not_after_us < call.now_us
    asked = [
        (call.entry_key, call.lease_key, call.number(), call.text(), call.text(), call.words())
        for _ in call.entries()
    ]
    items: list[Reply] = []
    while len(items) < len(asked):
        call.entry_key, call.lease_key, least, token, seen, tags = asked[len(items)]
        view = call.look(least, name, tags)
        entry, take = view.entry, asks and not late
        if take:
            before = call.book.star
            call.raise_tip(view.least, life)
            if items and call.book.star > before:
                # Everything was invalidated, and so were the leases on those before this one.
                items.clear()
                continue
            if call.book.star > view.least:
                view = call.look(least, name, tags)
        stale = entry.raw if view.fresh and entry is not None else b""
        if (
            view.fresh
            and entry is not None
            and (not asks or entry.newer or (call.now_ms < entry.soft and entry.id != seen))
        ):
            item: list[Reply] = [b"entry", entry.raw]
        elif not take:
            item = [b"late" if late else b"miss"]
        elif call.held_since(call.now_ms, call.entry_key, name, tags):
            item = [b"held", stale]
        else:
            item = _taken(call, view.least, token, lease_ms, expected_ms, marks_ms, stale)
        items.append([*item, *(word for pair in view.tags for word in pair)])
    function = call.covering(0, name, [])[0]
    return call.reply(b"ok", call.book.tip, call.book.star, function, call.book.tagfloor, *items)


def _taken(
    call: Call, least: int, token: bytes, lease_ms: int, expected_ms: int, marks_ms: int, stale: bytes
) -> list[Reply]:
    held = call.lease()
    if held is not None and held[1] >= least and held[2] <= call.now_ms + SKEW_MS:
        holder, stamp, granted, expected = held
        if holder == token:
            _extend(call, lease_ms)
            return [b"lead", stamp, stale]
        left = (call.server.expiry(call.lease_key) or call.now_ms) - call.now_ms
        return [b"wait", left, max(0, call.now_ms - granted), expected, stale]
    call.keep_marks(marks_ms)
    _grant(call, token, call.book.tip, expected_ms, lease_ms)
    return [b"lead", call.book.tip, stale]


def _grant(call: Call, token: bytes, stamp: int, expected_ms: int, lease_ms: int) -> None:
    value = b"%b %d %d %d %b" % (token, stamp, call.now_ms, expected_ms, call.server.replid.encode())
    call.server.put(call.lease_key, value, call.now_ms + lease_ms)


def _extend(call: Call, lease_ms: int) -> None:
    value = call.server.get(call.lease_key, call.now_ms)
    if value is not None:
        call.server.put(call.lease_key, value, call.now_ms + lease_ms)


def _renew(call: Call) -> Reply:
    token, lease_ms = call.text(), call.number()
    held = call.lease()
    if held is None or held[0] != token:
        return call.reply(b"lost")
    if held[2] > call.now_ms + SKEW_MS:
        _grant(call, token, held[1], held[3], lease_ms)
    else:
        _extend(call, lease_ms)
    return call.reply(b"ok")


def _release(call: Call) -> Reply:
    held = call.lease()
    if held is None or held[0] != call.text():
        return call.reply(b"lost")
    call.server.unlink(call.lease_key)
    return call.reply(b"ok")


def _store(call: Call) -> Reply:
    items: list[Reply] = []
    for _ in call.entries():
        token, stamp, soft_ms, span_ms, envelope = (
            call.text(), call.number(), call.number(), call.number(), call.text(),
        )  # fmt: skip
        entry, held = call.entry(), call.lease()
        if held is None or held[:2] != (token, stamp):
            items.append(entry.soft if entry is not None and entry.id == token else b"lease")
            continue
        call.server.unlink(call.lease_key)
        written = parse(envelope)
        if entry is not None and entry.newer and call.now_ms < entry.hard and entry.stamp >= stamp:
            items.append(b"newer")
        elif soft_ms + span_ms <= 0:
            items.append(b"expired")
        elif written is not None and written.tags and call.held_since(held[2], b"", b"", written.tags):
            items.append(b"held")
        else:
            soft = call.now_ms + soft_ms
            call.put(patched(envelope, stamp, soft, span_ms), soft_ms + span_ms)
            items.append(soft)
    return call.reply(b"ok", *items)


def _invalidate(call: Call) -> Reply:
    limit, life = call.limits(), call.text()
    keys, items = call.entries(), list[Reply]()
    for _ in range(call.number()):
        kind, name, id, function = call.texts(4)
        if kind not in (b"k", b"f", b"t", b"*"):
            return ServerError("ERR a kind of invalidation that this script does not know")
        if kind == b"k":
            next(keys)
        if id in call.book.ids:
            items.append(call.book.tip)
            continue
        existed = call.look(0, function, []).existed if kind == b"k" else 0
        stamp, line = call.mark(kind, name, id, True, limit, life)
        if kind == b"k":
            call.server.unlink(call.entry_key)
            call.server.unlink(call.lease_key)
        items.append([stamp, existed, line])
    return call.reply(b"ok", *items)


def _hold(call: Call) -> Reply:
    id, span_ms, not_after_us = call.text(), call.number(), call.number()
    most, life, scopes = call.number(), call.text(), call.words()
    if span_ms > 0 and 0 < not_after_us < call.now_us:
        return call.reply(b"late")
    book = call.book
    if span_ms > 0:
        call.ensure_generation(life)
        if 0 < book.held < call.now_ms - REMEMBERED_MS or len(book.holds) + len(scopes) > most:
            book.holds = {name: who for name, who in book.holds.items() if call.latest(who) >= call.now_ms}
            if len(book.holds) + len(scopes) > most:
                return call.reply(b"full")
        for scope in scopes:
            book.holds.setdefault(scope, {})[id] = call.now_ms + span_ms
        book.held = max(call.believable(book.held), call.now_ms + span_ms)
        return call.reply(b"ok")
    for scope in scopes:
        holders = book.holds.get(scope, {})
        holders.pop(id, None)
        if not holders:
            book.holds.pop(scope, None)
    if not book.holds:
        book.held = 0
    return call.reply(b"ok")


def _untouched(call: Call, since: int) -> bool:
    book = call.book
    if since >= book.tip or call.newest > book.tip:
        return since == book.tip >= call.newest
    previous = book.last
    for before, kind, name, stamp in reversed(book.log):
        if stamp <= since:
            return True
        if kind == b"k" and name == call.entry_key:
            return False
        previous = before
    return previous == b"0-0" and (since == 0 or book.star > 0)


def _set(call: Call) -> Reply:
    mode, not_before_us, not_after_us, limit, life = (
        call.text(), call.number(), call.number(), call.limits(), call.text(),
    )  # fmt: skip
    if not not_before_us <= call.now_us <= not_after_us:
        return call.reply(b"late")
    ids = call.texts(call.count)
    puts = [call.texts(7) for _ in ids]
    judged = []  # all of them before the first is written
    for _, id, (name, *rest, envelope, ntags) in zip(call.entries(), ids, puts, strict=True):
        tags = call.texts(int(ntags))
        least, since, soft_ms, span_ms = map(int, rest)
        refused, view = b"", call.look(least, name, tags)
        if id in call.book.ids:
            refused = b"cancelled"
        elif mode == b"add" and view.fresh:
            refused = b"exists"
        elif mode == b"since":
            written = parse(envelope)
            tags = tags + (written.tags if written else [])
            held = call.held_since(call.now_ms - REMEMBERED_MS, call.entry_key, name, tags)
            if held or since < call.covering(least, name, tags)[2] or not _untouched(call, since):
                refused = b"outdated"
        judged.append((call.entry_key, call.lease_key, id, refused, view.existed, soft_ms, span_ms, envelope))
    items: list[Reply] = []
    for call.entry_key, call.lease_key, id, refused, existed, soft_ms, span_ms, envelope in judged:
        if refused:
            items.append(refused)
            continue
        stamp, _ = call.mark(b"k", call.entry_key, id, False, limit, life)
        soft = call.now_ms + soft_ms
        call.put(patched(envelope, stamp, soft, span_ms), soft_ms + span_ms)
        call.server.unlink(call.lease_key)
        items.append([stamp, existed, soft])
    return call.reply(b"ok", *items)


def _touch(call: Call) -> Reply:
    least, name, not_before_us, not_after_us = call.number(), call.text(), call.number(), call.number()
    soft_ms, span_ms, renewed, marks_ms = call.number(), call.number(), call.number(), call.number()
    tags = call.words()
    if not not_before_us <= call.now_us <= not_after_us:
        return call.reply(b"late")
    view = call.look(least, name, tags)
    if not view.fresh or view.entry is None or view.entry.newer:
        return call.reply(b"miss")
    soft, raw = call.now_ms + soft_ms, view.entry.raw
    if renewed > 1 and not raw[3] & RENEWED:
        return call.reply(b"miss")
    call.keep_marks(marks_ms)
    flags = bytes([(raw[3] & ~RENEWED) | (RENEWED if renewed else 0)])
    call.put(raw[:3] + flags + raw[4:12] + expiries(soft, span_ms) + raw[22:], soft_ms + span_ms)
    return call.reply(b"ok", soft)


def _incr(call: Call) -> Reply:
    least, not_before_us, not_after_us = call.number(), call.number(), call.number()
    id, delta = call.text(), call.number()
    soft_ms, span_ms, initial = call.number(), call.number(), call.number()
    life, marks_ms = call.text(), call.number()
    if not not_before_us <= call.now_us <= not_after_us:
        return call.reply(b"late")
    view = call.look(least, b"", [])
    entry = view.entry if view.fresh else None
    value = initial
    if entry is not None:
        payload = entry.raw[entry.payload_at :]
        if not entry.counter or not payload.removeprefix(b"-").isdigit():
            return call.reply(b"type")
        value = int(payload)
    value += delta
    if abs(value) >= LIMIT:
        return call.reply(b"range")
    digits = b"%d" % value
    if entry is not None:
        expires = call.server.expiry(call.entry_key)
        call.server.put(call.entry_key, entry.raw[: entry.payload_at] + digits, expires)
    else:
        call.raise_tip(least, life)
        call.keep_marks(marks_ms)
        header = MAGIC + b"\x01\x01" + bytes(18) + bytes.fromhex(id.decode()) + bytes(HEADER - 30)
        value_bytes = patched(header, call.book.tip, call.now_ms + soft_ms, span_ms) + digits
        call.put(value_bytes, soft_ms + span_ms)
    return call.reply(b"ok", digits)


def _resync(call: Call) -> Reply:
    life, book = call.text(), call.book
    call.raise_tip(call.newest, life)
    if book.gens:
        call.ensure_generation(life)
    gens = ",".join(f"{replid}:{start}" for replid, start in book.gens).encode()
    return call.reply(b"ok", book.tip, book.star, book.tagfloor, gens, book.last, book.life)


def _restore(call: Call) -> Reply:
    life, star, tagfloor, limit = call.text(), call.number(), call.number(), call.limits()
    knew_another, count = call.text() == b"1", call.number()
    pairs = [(call.text(), call.number()) for _ in range(count)]
    book = call.book
    call.ensure_generation(life)
    call.keep_marks(limit.marks_ms)
    if knew_another and (book.silent or book.star < call.newest):
        call.raise_tip(call.newest + 1, life)
        call.mark(b"*", b"", life, False, limit, life)
        book.silent = False
    tip = max(call.newest, star, tagfloor)
    for member, score in pairs:
        book.marks[member] = max(score, book.marks.get(member, 0))
        tip = max(tip, score)
    book.marks = dict(sorted(book.marks.items(), key=lambda item: (item[1], item[0])))
    book.star, book.tagfloor = max(book.star, star), max(book.tagfloor, tagfloor)
    call.raise_tip(tip, life)
    call.fold(limit.marks, max(200, count))
    return call.reply(b"ok", book.tip)


def _sweep(call: Call) -> Reply:
    least, entry = call.number(), call.entry()
    if entry is None or not entry.raw or entry.newer or (entry.stamp >= least and call.now_ms < entry.hard):
        return call.reply(b"ok", 0)
    call.server.unlink(call.entry_key)
    return call.reply(b"ok", 1)


def _tip(call: Call) -> Reply:
    return call.reply(b"ok", call.book.tip)


def _checked(port: Callable[[Call], Reply]) -> Callable[[Call], Reply]:
    """The start of every script: version of the arguments, then the generation."""

    def run(call: Call) -> Reply:
        version, expected = call.head[0], call.head[1]
        if version != b"1":
            return ServerError("ERR this script takes arguments of version 1")
        if expected and expected.decode() != call.server.replid:
            return call.reply(b"GEN")
        return port(call)

    return run


#: The ports by the name of the script.
PORTS: dict[str, Callable[[Call], Reply]] = {
    name: _checked(port)
    for name, port in {
        "hold": _hold,
        "incr": _incr,
        "invalidate": _invalidate,
        "lease": _lease,
        "release": _release,
        "renew": _renew,
        "restore": _restore,
        "resync": _resync,
        "set": _set,
        "store": _store,
        "sweep": _sweep,
        "tip": _tip,
        "touch": _touch,
    }.items()
}
