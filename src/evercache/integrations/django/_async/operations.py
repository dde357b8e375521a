"""The contract of Django's cache backends, on the direct operations of a cache."""

from __future__ import annotations

# async-only
import inspect

# end async-only
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT

# async-only
from evercache.client.waits import in_thread

# end async-only
from evercache.errors import NotACounter
from evercache.integrations.django.core import MISSING
from evercache.integrations.django.structures import Structures

__all__ = ["AsyncOperations"]


class AsyncOperations(Structures):
    """A part of the backend. Times are in seconds; None is for ever, and 0 ends an entry.

    `tags=` is ours: what was written with a tag ends with `invalidate_tag`.
    """

    # -- reading

    async def aget(self, key: Any, default: Any = None, version: int | None = None, **_: Any) -> Any:
        """The value of a key, or the default."""
        return await self.evercache.aget(self.make_and_validate_key(key, version=version), default)

    async def aget_many(self, keys: Iterable[Any], version: int | None = None, **_: Any) -> dict[Any, Any]:
        """The values of those keys that have one, in one round trip."""
        names = {self.make_and_validate_key(key, version=version): key for key in keys}
        found = await self.evercache.aget_many(names, MISSING)
        return {names[name]: value for name, value in found.items() if value is not MISSING}

    async def ahas_key(self, key: Any, version: int | None = None, **_: Any) -> bool:
        """Whether a key has a value; None is one."""
        return await self.aget(key, MISSING, version) is not MISSING

    # -- writing

    async def aset(  # type: ignore[override]  # django-redis tells whether it was written
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        nx: bool = False,
        xx: bool = False,
        tags: Iterable[str] = (),
        **_: Any,
    ) -> bool:
        """Write a value; False when it was not. `nx`: only where none is; `xx`: only where one is."""
        if nx:
            return await self.aadd(key, value, timeout, version, tags=tags)
        if xx and not await self.ahas_key(key, version):
            return False
        name, seconds = self.make_and_validate_key(key, version=version), self._seconds(timeout)
        if not seconds:
            return bool(await self.evercache.adelete(name))
        return self._stored(await self.evercache.aset(name, value, ttl=seconds, tags=tags), value)

    async def aadd(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
        **_: Any,
    ) -> bool:
        """Write a value unless the key has one; whether it was written."""
        name, seconds = self.make_and_validate_key(key, version=version), self._seconds(timeout)
        if not seconds:
            return await self.evercache.aget(name, MISSING) is MISSING
        return self._stored(await self.evercache.aadd(name, value, ttl=seconds, tags=tags), value)

    async def aset_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
        **_: Any,
    ) -> list[Any]:
        """Write many values in one round trip; the keys that were not written."""
        names = {self.make_and_validate_key(key, version=version): key for key in data}
        seconds = self._seconds(timeout)
        if not seconds:
            acks = await self.evercache.adelete_many(names)
        else:
            values = {name: data[key] for name, key in names.items()}
            acks = await self.evercache.aset_many(values, ttl=seconds, tags=tags)
        return [key for name, key in names.items() if not self._stored(acks[name], data[key])]

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, **_: Any) -> bool:
        """Give an entry a new time-out; False where there is none."""
        name, seconds = self.make_and_validate_key(key, version=version), self._seconds(timeout)
        if not seconds:
            return (await self.evercache.adelete(name)).existed
        return await self.evercache.atouch(name, ttl=seconds)

    async def adelete(self, key: Any, version: int | None = None, **_: Any) -> bool:
        """Delete a key; whether it had a value."""
        return (await self.evercache.adelete(self.make_and_validate_key(key, version=version))).existed

    async def adelete_many(  # type: ignore[override]  # django-redis counts
        self, keys: Iterable[Any], version: int | None = None, **_: Any
    ) -> int | None:
        """Delete many keys in one round trip; how many had a value, None where no key is given."""
        names = [self.make_and_validate_key(key, version=version) for key in keys]
        if not names:
            return None
        return sum(ack.existed for ack in (await self.evercache.adelete_many(names)).values())

    async def aclear(self, **_: Any) -> bool:  # type: ignore[override]  # as Django's Redis backend does
        """End all entries with the prefix of this alias, in one step; nothing else in the database."""
        # async-only
        await in_thread(self._end_structures)
        # end async-only
        # sync-only:
        # self._end_structures()
        # end sync-only
        return bool(await self.evercache.aclear())

    async def ainvalidate_tag(self, tag: str) -> bool:
        """End all entries that were written with a tag, in one step whatever their number."""
        return bool(await self.evercache.ainvalidate_tag(tag))

    # -- what builds on the present value

    async def aincr(
        self, key: Any, delta: int = 1, version: int | None = None, *, ignore_key_check: bool = False, **_: Any
    ) -> Any:
        """Add to a value and return the sum, atomically for a whole number; ValueError where there is none.

        With `ignore_key_check` one that is not there begins at 0.
        """
        name = self.make_and_validate_key(key, version=version)
        value = await self.evercache.aget(name, 0 if ignore_key_check else MISSING)
        if value is MISSING:
            raise ValueError(f"Key '{key}' not found")
        try:
            counted = await self.evercache.aincr(name, delta, ttl=self._seconds(DEFAULT_TIMEOUT) or None)
        except (NotACounter, OverflowError):
            value += delta
            await self.evercache.aset(name, value, ttl=await self.evercache.aexpires_in(name))
            return value
        return value + delta if counted is None else counted

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None, **more: Any) -> Any:
        """Subtract from a value: see `aincr`."""
        return await self.aincr(key, -delta, version, **more)

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None, **_: Any) -> int:
        """Move an entry to a later version of its key, and return that; ValueError where there is none."""
        version = self.version if version is None else version
        former = self.make_and_validate_key(key, version=version)
        value = await self.evercache.aget(former, MISSING)
        if value is MISSING:
            raise ValueError(f"Key '{key}' not found")
        left = await self.evercache.aexpires_in(former)
        await self.evercache.aset(self.make_and_validate_key(key, version=version + delta), value, ttl=left)
        await self.evercache.adelete(former)
        return version + delta

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> Any:
        """The value of a key; where there is none, `default` or what it returns, computed once in the fleet."""
        name, seconds = self.make_and_validate_key(key, version=version), self._seconds(timeout)
        value = await self.evercache.aget(name, MISSING)
        if value is not MISSING:
            return value

        async def compute() -> Any:
            # sync-only:
            # return default() if callable(default) else default
            # end sync-only
            # async-only
            made = default() if callable(default) else default
            return await made if inspect.isawaitable(made) else made
            # end async-only

        if not seconds:
            return await compute()
        return await self.evercache.aget_or_compute(name, compute, ttl=seconds, tags=tags)
