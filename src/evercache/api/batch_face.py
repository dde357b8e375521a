"""What a cached function of many ids is, apart from its calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

from evercache.api.batch_core import BatchCore
from evercache.api.function import CallableFace
from evercache.api.keyspace import Key

__all__ = ["BatchFace"]

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")


class BatchFace(CallableFace[P, Mapping[K, V]], Generic[P, K, V]):
    """As its base, for functions that take many ids: each of them has an entry."""

    _core: BatchCore

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> dict[K, Key]:
        """The key of each id's entry as it stands on the server; direct operations take them too."""
        core = self._core
        args, kwargs = self._bound + args, kwargs  # type: ignore[assignment]
        ids = core.ids(args, kwargs)
        keys = [Key(subject.key, subject.function, core.cache) for subject in core.subjects(ids, args, kwargs)]
        return dict(zip(ids, keys, strict=True))

    @staticmethod
    def _in_order(ids: Iterable[Any], values: Mapping[Any, Any]) -> dict[Any, Any]:
        """What the function returned, as a cached call returns it."""
        return {id: values[id] for id in ids if id in values}
