"""One more task of each process in some schedules: all that can be done with a cached function besides calling
it, and keys that several tasks and processes write at the same time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from evercache.errors import UnavailableError
from tests.sim.batches import Failed
from tests.sim.troubles import Interrupted
from tests.sim.watch import invalidation_of_task, source_of_task
from tests.sim.written import WRITTEN

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["CALLS", "MORE_KEYS", "Callers", "Refusal", "is_covered"]

#: Two entries of a function h, which have two tags each; one of `get_or_compute`; and those of `written.py`.
MORE_KEYS = ("h6", "h7", "o", *WRITTEN)
#: Seconds for which an error of h is cached.
ERRORS_LIVE = 0.3
#: Parts of the workload, each on or off: what is called besides h itself. `picky`: h has `cache_if`; `errors`:
#: it has `cache_errors`; `raising`: it, and writes, have `on_error="raise"`.
CALLS = ("peeks", "refreshes", "computes", "many", "overlaps", "raising", "picky", "errors")


class Refusal(Exception):
    """An answer of h that is cached, too: `k`, the version of its row, and when it was given."""


def is_covered(key: str, scope: str) -> bool:
    """Whether an invalidation covers one of these keys."""
    kind, _, name = scope.partition(":")
    match kind:
        case "k":
            return False  # that it has this very key is known
        case "f":
            return key[0] == name
        case "t":
            return name == "0" if key == "o" else key[0] == "h" and int(key[1]) % 3 == int(name)
        case "u":
            return key[0] == "h" and int(key[1]) % 2 == int(name)
        case _:
            return True


class Callers:
    """The task, with a random source of its own. It makes the function h."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world
        work = self._work = process.world.plan.workload
        self._rng = random.Random(f"callers {process.world.plan.seed} {process.slot} {process.born}")
        self._errors: dict[str, Any] = {"on_error": "raise"} if work.get("raising") else {}
        options: dict[str, Any] = dict(self._errors)
        if work.get("picky"):
            options["cache_if"] = _is_even
        if work.get("errors"):
            options["cache_errors"] = {Refusal: ERRORS_LIVE}

        # Nobody knows its second tag but who reads an entry.
        decorator = process.cache.cached(
            name="h", tags=(lambda k: f"t{k % 3}",), tags_from=_second_tag, near=work["near"], **options
        )

        async def h(k: int) -> list[int]:
            value = await process._compute(f"h{k}", k)
            if work.get("errors") and self._rng.random() < 0.3:
                raise Refusal(k, value[1], process.world.now)
            return value

        self._h: Any = process.decorated(decorator, h)
        process.functions["h"] = self._h

    def __repr__(self) -> str:
        return f"<Callers of {self._process!r}>"

    @staticmethod
    def wanted(work: Mapping[str, Any]) -> bool:
        """Whether a schedule has any of it."""
        return any(work.get(name) for name in CALLS)

    async def run(self) -> None:
        """For ever; only reads once the writes are over."""
        rng, world, work = self._rng, self._world, self._work
        chosen: list[tuple[Callable[[], Coroutine[Any, Any, None]], float]] = [(self._call, 3), (self._change, 2)]
        for name, action in (
            ("peeks", self._peek), ("peeks", self._explain), ("refreshes", self._refresh), ("many", self._many),
            ("computes", self._compute), ("overlaps", self._overlap), ("many", self._written_together),
        ):  # fmt: skip
            if work.get(name):
                chosen.append((action, 3))
        while True:
            await self._process.rest(rng.uniform(0, 2 * self._process.pace()))
            (action,) = rng.choices([a for a, _ in chosen], [w for _, w in chosen])
            if world.now > world.plan.length:
                action = self._call
            try:
                await action()
            except Interrupted:
                pass
            except UnavailableError:
                if not work.get("raising"):
                    raise

    # -- the function h, and others

    async def _called(self, key: str, call: Coroutine[Any, Any, Any], *, cached: str = "") -> int | None:
        """Have the oracle look at what a call gave; returns the version. `cached`: it can only come from there."""
        process, oracle, began = self._process, self._world.oracle, self._world.now
        number, how, refused = oracle.tick(), [cached or "get"], False
        source_of_task.set(how)
        try:
            value = await call
        except Failed:
            return None
        except Refusal as refusal:
            value, refused = list(refusal.args[:2]), True
            if how[0].startswith(("near", "replica", "master")):
                self._still_refused(refusal.args[2], began)
        if value is None:
            return None
        how[0] = cached or how[0]
        k, version = value
        if f"{key[0]}{k}" != key and (key, k) != ("o", 0):
            oracle.bad("value", f"{key} gave {k}")
        picky = self._work.get("picky") and key[0] == "h" and not refused
        if picky and version % 2 and how[0].startswith(("near", "replica", "master")):
            oracle.bad("value", f"{key} v{version} comes from {how[0]}, and cache_if= refuses it")
        self._world.note(f"{process.name} got {key} v{version} from {how[0]}")
        oracle.read(process, key, version, began, number, how[0])
        return int(version)

    def _still_refused(self, at: float, began: float) -> None:
        """An error from a cache lives as long as `cache_errors` says, from the store on."""
        oracle, name = self._world.oracle, self._process.name
        over = began - at - ERRORS_LIVE - self._world.budget - 0.1
        if over > 0 and oracle.clock_at < at - 3 and not oracle.in_trouble(name, at - 2, began):
            oracle.bad("expiry", f"{name} got an error {began - at:.3f} s after it was raised")

    def _key(self) -> str:
        return self._rng.choice(("h6", "h7"))

    async def _call(self) -> None:
        key = self._key()
        began = self._world.now
        try:
            await self._called(key, self._h(int(key[1:])))
        finally:
            process = self._process
            if not self._world.loop.is_closed():
                self._world.oracle.leases.call_took(process, began, process.entry(key), budget=self._world.budget)

    async def _change(self) -> None:
        rng, process = self._rng, self._process
        key = rng.choice(("h6", "h7", "o")) if self._work.get("computes") else self._key()
        self._world.oracle.commit(key)
        await asyncio.sleep(rng.uniform(0, 0.003))
        if key == "o":
            scopes = ["k:o", "t:0"]
        else:
            scopes = [f"k:{key}", "f:h", f"t:{int(key[1:]) % 3}"]
            if not self._work.get("errors"):  # an error has no result to take a tag from
                scopes += 2 * [f"u:{int(key[1:]) % 2}"]
        scope = rng.choice(scopes)
        it = process.beginning(scope) if scope != f"k:{key}" else self._world.oracle.begin(process, scope, [key])
        await self._told(it, self._invalidation(scope), process)
        if rng.random() < 0.6:
            await (self._call() if key != "o" else self._compute())

    def _invalidation(self, scope: str) -> Coroutine[Any, Any, Any]:
        cache, (kind, _, name) = self._process.cache, scope.partition(":")
        if scope == "k:o":
            return cache.adelete("o", **self._errors)
        if kind == "k":
            return self._h.ainvalidate(int(name[1:]))  # type: ignore[no-any-return]
        if kind == "f":
            return self._h.ainvalidate_all()  # type: ignore[no-any-return]
        return cache.ainvalidate_tag(f"{kind}{name}", **self._errors)

    async def _told(self, it: Any, call: Coroutine[Any, Any, Any], process: Process) -> None:
        """Await an invalidation or a write, or several, and tell the oracle."""
        its = it if isinstance(it, list) else [it]
        reset = invalidation_of_task.set(it)
        try:
            acks = await call
        except UnavailableError:
            for each in its:  # raised, and queued all the same
                each.returned = self._world.oracle.tick()
            raise
        finally:
            invalidation_of_task.reset(reset)
        acks = list(acks.values()) if isinstance(acks, dict) else [acks]
        for each, ack in zip(its, acks, strict=True):
            process.over(each, ack)

    async def _peek(self) -> None:
        key = self._rng.choice(("h6", "h7", "f0", "f1", "g4"))
        function = self._process.functions[key[0]]
        try:
            await self._called(key, function.apeek(int(key[1:])), cached="master or replica, peeked")
        except UnavailableError:
            if key[0] == "h":
                raise

    async def _explain(self) -> None:
        key = self._rng.choice(("h6", "f0", "f1", "g4"))
        said = await self._process.functions[key[0]].aexplain(int(key[1:]))
        if said.verdict == "hit" and said.stamp < said.needed:
            self._world.oracle.bad("explain", f"{self._process.name} is said to hit: {said}")

    async def _refresh(self) -> None:
        """What a refresh returns was computed after it was asked for."""
        key = self._rng.choice(("h6", "h7", "f0", "f1", "g4"))
        if self._rng.random() < 0.5:
            self._world.oracle.commit(key)
        before = self._world.oracle.version(key)
        self._world.oracle.judges.once.call_begins(self._process, refresh=True)
        version = await self._called(key, self._process.functions[key[0]].arefresh(int(key[1:])))
        if version is not None and version < before:
            self._world.oracle.bad("refresh", f"{self._process.name} refreshed {key} v{before} and got v{version}")

    async def _many(self) -> None:
        """The forms of a function of many ids, whose entries are those of f."""
        process, oracle, rng = self._process, self._world.oracle, self._rng
        many, ks = process.batches.many, rng.sample(range(4), 2)
        number, began = oracle.tick(), self._world.now
        match rng.choice(("peek", "refresh", "invalidate")):
            case "peek":
                found = await many.apeek(ks)
            case "refresh":
                before = {k: oracle.version(f"f{k}") for k in ks}
                oracle.judges.once.call_begins(process, refresh=True)
                try:
                    found = await many.arefresh(ks)
                except Failed:
                    return
                for k, (_, version) in found.items():
                    if version < before[k]:
                        oracle.bad("refresh", f"{process.name} refreshed f{k} v{before[k]} and got v{version}")
            case _:
                for k in ks:
                    oracle.commit(f"f{k}")
                its = [oracle.begin(process, f"k:f{k}", [f"f{k}"]) for k in ks]
                await self._told(its, many.ainvalidate(ks), process)
                return
        for k, (_, version) in found.items():
            oracle.read(process, f"f{k}", version, began, number, "a batch")

    async def _compute(self) -> None:
        process = self._process

        async def fn() -> list[int]:
            return await process._compute("o", 0)

        await self._called(
            "o",
            process.cache.aget_or_compute(
                "o", process.callable(fn), tags=("t0",), stale=self._work["stale"], **self._errors
            ),
        )

    # -- keys that several write

    async def _overlap(self) -> None:
        rng = self._rng
        await asyncio.gather(*(self._write(rng.uniform(0, 0.01)) for _ in range(rng.choice([1, 2, 3]))))
        await self._read_written(["w"])

    async def _write(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        process, oracle, rng = self._process, self._world.oracle, self._rng
        it = oracle.begin(process, "k:w", ["w"])
        if rng.random() < 0.8:
            call = process.cache.aset("w", [oracle.written.value(it)], ttl=60.0, **self._errors)
        else:
            call = process.cache.adelete("w", **self._errors)
        with suppress(*([UnavailableError] if self._errors else [])):
            await self._told(it, call, process)

    async def _written_together(self) -> None:
        process, oracle, keys = self._process, self._world.oracle, ["b0", "b1"]
        its = [oracle.begin(process, f"k:{key}", [key]) for key in keys]
        if self._rng.random() < 0.7:
            values = {key: [oracle.written.value(it)] for key, it in zip(keys, its, strict=True)}
            await self._told(its, process.cache.aset_many(values, ttl=60.0, **self._errors), process)
        else:
            await self._told(its, process.cache.adelete_many(keys, **self._errors), process)
        await self._read_written(keys)

    async def _read_written(self, keys: list[str]) -> None:
        process, oracle, began = self._process, self._world.oracle, self._world.now
        number = oracle.tick()
        for key, value in (await process.cache.aget_many(keys, **self._errors)).items():
            if value is not None:
                stamp = oracle.written.stamp(value[0])
                if stamp is None:
                    oracle.bad("value", f"{key} gave {value}, which no master has")
                else:
                    oracle.read(process, key, stamp, began, number, "a get")


def _is_even(value: list[int]) -> bool:
    return value[1] % 2 == 0


def _second_tag(value: list[int]) -> list[str]:
    return [f"u{value[0] % 2}"]
