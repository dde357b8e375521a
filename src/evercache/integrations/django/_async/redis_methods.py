"""What django-redis and django-valkey offer beside the contract of Django."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from math import inf
from time import time
from typing import Any, cast

from django.utils.module_loading import import_string

from evercache.errors import UnavailableError
from evercache.integrations.django._async.operations import AsyncOperations
from evercache.integrations.django.core import MISSING
from evercache.integrations.django.location import tell

__all__ = ["AsyncRedisMethods"]

#: Keys that are asked for, or deleted, in one round trip.
_PAGE = 500
_GLOB = re.compile(r"([*?\[\]\\])")


class AsyncRedisMethods(AsyncOperations):
    """A part of the backend."""

    # -- times

    async def attl(self, key: Any, version: int | None = None, **_: Any) -> int | None:
        """Whole seconds until an entry expires; None: never; 0: there is none."""
        left = await self._aleft(key, version)
        return None if left is None else int(left + 0.5)

    async def apttl(self, key: Any, version: int | None = None, **_: Any) -> int | None:
        """The same in milliseconds."""
        left = await self._aleft(key, version)
        return None if left is None else int(left * 1000)

    async def _aleft(self, key: Any, version: int | None) -> float | None:
        left = await self.evercache.aexpires_in(self.make_and_validate_key(key, version=version))
        return None if left == inf else left or 0

    async def apersist(self, key: Any, version: int | None = None, **_: Any) -> bool:
        """Let an entry never expire; False where there is none."""
        return await self.atouch(key, None, version)

    async def aexpire(self, key: Any, timeout: Any, version: int | None = None, **_: Any) -> bool:
        """Let an entry expire in `timeout` seconds, or a timedelta; False where there is none."""
        return await self.atouch(key, timeout, version)

    async def apexpire(self, key: Any, timeout: Any, version: int | None = None, **_: Any) -> bool:
        """The same in milliseconds, or a timedelta."""
        return await self.atouch(key, timeout / 1000 if isinstance(timeout, (int, float)) else timeout, version)

    async def aexpire_at(self, key: Any, when: datetime | float, version: int | None = None, **_: Any) -> bool:
        """Let an entry expire at a moment (a datetime, or seconds since 1970); False where there is none."""
        moment = when.timestamp() if isinstance(when, datetime) else float(when)
        return await self.atouch(key, max(0.0, moment - time()), version)

    async def apexpire_at(self, key: Any, when: datetime | float, version: int | None = None, **_: Any) -> bool:
        """The same with a datetime, or milliseconds since 1970."""
        return await self.aexpire_at(key, when if isinstance(when, datetime) else when / 1000, version)

    # -- patterns

    async def aiter_keys(
        self, search: str, itersize: int | None = None, version: int | None = None, **_: Any
    ) -> AsyncIterator[str]:
        """The keys that fit a glob pattern and have a value, in pages. Looks through all keys of the database."""
        reverse = self._reverse()
        try:
            async for names in self.evercache._ascan(self._pattern(search, version), itersize or _PAGE):
                found = await self.evercache.aget_many(names, MISSING)
                for name, value in found.items():
                    if value is not MISSING:
                        yield reverse(name)
        except UnavailableError as error:
            tell("iter_keys", f"the keys that fit {search!r} cannot be listed: {error}")

    async def akeys(self, search: str = "*", version: int | None = None, **_: Any) -> list[str]:
        """All keys that fit a glob pattern and have a value."""
        # async-only
        return [key async for key in self.aiter_keys(search, version=version)]
        # end async-only
        # sync-only:
        # return list(self.iter_keys(search, version=version))
        # end sync-only

    async def adelete_pattern(
        self, pattern: str, version: int | None = None, *, itersize: int | None = None, **_: Any
    ) -> int:
        """Delete the keys that fit a glob pattern, in batches; how many had a value.

        It looks through all keys of the database. A tag ends any number of entries in one step. While no server can
        be asked, all entries with the prefix of this alias are ended, as soon as one can.
        """
        self._warn_of_patterns()
        deleted = 0
        try:
            async for names in self.evercache._ascan(self._pattern(pattern, version), itersize or _PAGE):
                deleted += sum(ack.existed for ack in (await self.evercache.adelete_many(names)).values())
        except UnavailableError:
            await self.evercache.aclear()  # it waits for a master; nobody can say now what else to end
        return deleted

    def _pattern(self, search: str, version: int | None) -> str:
        return str(self.key_func(search, _GLOB.sub(r"\\\1", self.key_prefix), version or self.version))

    def _reverse(self) -> Callable[[str], str]:
        """What makes the key of a name: of Django's own key function, else the option `REVERSE_KEY_FUNCTION`."""
        chosen = self._reverse_key
        if chosen is None:
            return lambda name: name.removeprefix(f"{self.key_prefix}:").partition(":")[2]
        return cast(Callable[[str], str], import_string(chosen) if isinstance(chosen, str) else chosen)

    # -- locks

    def alock(
        self,
        key: Any,
        version: int | None = None,
        timeout: float | None = None,
        sleep: float = 0.1,
        blocking_timeout: float | None = None,
        *,
        thread_local: bool = True,
        **_: Any,
    ) -> Any:
        """redis-py's lock on the primary. A failover can give it to two owners, as any lock of one server."""
        name = f"{self.evercache.settings.namespace}:lock:{self.make_key(key, version=version)}"
        return self.evercache.amaster.lock(
            name, timeout=timeout, sleep=sleep, blocking_timeout=blocking_timeout, thread_local=thread_local
        )
