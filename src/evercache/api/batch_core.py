"""What all calls of one function have in common that takes many ids and returns a dict."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from evercache.api.core import FunctionCore, as_tags
from evercache.client.request import Batch, Request
from evercache.protocol.canonical import shown
from evercache.protocol.scope import Subject, tag_hash

__all__ = ["BatchCore", "ids_position"]

#: What stands for one id in the tags.
ID = "id"


def ids_position(fn: Callable[..., Any], binding: str) -> int:
    """Which parameter takes the ids: the first one, or the one after `self`. TypeError where there is none."""
    parameters = list(inspect.signature(fn).parameters.values())
    outer = fn.__qualname__.rpartition(".")[0]
    in_class = bool(outer) and not outer.endswith("<locals>")
    first = parameters[0].name if parameters else ""
    position = int(binding != "static" and (binding == "class" or in_class or first in ("self", "cls")))
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if position >= len(parameters) or parameters[position].kind not in kinds:
        raise TypeError(f"{fn.__qualname__} has no parameter for the ids: the first one, with a name")
    return position


class BatchCore(FunctionCore):
    """As its base; each id has an entry of its own. `position` is that of the parameter that takes the ids."""

    def __init__(self, *args: Any, position: int, **options: Any) -> None:
        self.position = position
        super().__init__(*args, **options)
        names = self.signature.parameters
        if names[position] in self.signature.ignored:
            raise TypeError(f"{self.name}: the ids ({names[position]}) make the difference; they cannot be ignored")

    def _tag_names(self) -> tuple[str, ...]:
        names = self.signature.parameters
        if ID in (*names[: self.position], *names[self.position + 1 :]):
            raise TypeError(f"{self.name} has a parameter named {ID!r}, which stands for one id in tags: rename it")
        return (*names[: self.position], ID, *names[self.position + 1 :])

    def ids(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The ids of a call, each once, in order; TypeError for what is no collection of ids."""
        given = self.signature.bind(*args, **kwargs)[self.position]
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise TypeError(f"{self.name} takes a list of ids, not {shown(given)}: write [...] around one")
        return tuple(dict.fromkeys(given))

    def subjects(self, ids: tuple[Any, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Subject]:
        """What a call is about, for each id; TypeError for arguments that make no key, or no tag."""
        cache, signature, position = self.cache, self.signature, self.position
        args, kwargs = signature.replaced(args, kwargs, position, ids)  # an iterator was read already
        texts = signature.texts(args, kwargs, position, ids)
        namespace, entry_key = cache.settings.namespace, cache.naming.entry_key
        keys = [entry_key(namespace, self.name, text) for text in texts]
        if not self.templates and not self.tag_functions:
            return [Subject(key, self.name, ()) for key in keys]
        arguments = dict(zip(self._tag_names(), signature.bind(*args, **kwargs), strict=True))
        subjects = []
        for id, key in zip(ids, keys, strict=True):
            arguments[ID] = id
            tags = [template.render(arguments) for template in self.templates]
            if self.tag_functions:
                one, more = signature.replaced(args, kwargs, position, id)
                for function in self.tag_functions:
                    tags += as_tags(function(*one, **more))
            subjects.append(Subject(key, self.name, tuple(dict.fromkeys(map(tag_hash, tags)))))
        return subjects

    def batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
        """A call, as the client takes it."""
        ids = self.ids(args, kwargs)
        tags = self._result_tags if self._tags_from is not None else None
        requests = tuple(
            Request(subject, self.policy, self.encoder, self.counters, self.usual, _alone, tags)
            for subject in self.subjects(ids, args, kwargs)
        )
        one = functools.partial(self.signature.replaced, args, kwargs, self.position)
        return Batch(ids, requests, functools.partial(self._compute, args, kwargs), one)

    def _compute(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], ids: list[Any]) -> Any:
        args, kwargs = self.signature.replaced(args, kwargs, self.position, ids)
        return self.fn(*args, **kwargs)

    def plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """The ids, and what the function returns, with no cache."""
        ids = self.ids(args, kwargs)
        return ids, self._compute(args, kwargs, list(ids)) if ids else {}


def _alone() -> Any:
    raise AssertionError("a batch is computed as a whole")
