"""What all calls of one cached function have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from evercache.client.request import SHARE, Plan, Request, Usual
from evercache.codecs import Encoder
from evercache.faces.keyspace import Keyspace
from evercache.observe import Counters
from evercache.policy import Policy
from evercache.protocol.scope import Subject, tag_hash
from evercache.protocol.signature import Signature, TagTemplate

__all__ = ["FunctionCore", "TagSource", "as_tags"]

#: A template with parameter names, or a function of the call's arguments that returns one tag or several.
TagSource = str | Callable[..., str | Iterable[str]]


def as_tags(tags: str | Iterable[str]) -> Iterable[str]:
    """One tag, or several."""
    return (tags,) if isinstance(tags, str) else tags


class FunctionCore:
    """What does not change between the calls of one function. Counters apart, immutable after creation."""

    def __init__(
        self,
        cache: Keyspace,
        fn: Callable[..., Any],
        *,
        name: str,
        is_async: bool,
        signature: Signature,
        policy: Policy,
        encoder: Encoder,
        tags: Iterable[TagSource],
        tags_from: Callable[[Any], Iterable[str]] | None,
    ) -> None:
        self.cache = cache
        self.fn = fn
        self.name = name
        self.is_async = is_async
        self.signature = signature
        self.policy = policy
        self.encoder = encoder
        self.counters = Counters()
        self.usual = Usual()
        names = self._tag_names()
        self.templates = [TagTemplate.compile(t, names) for t in tags if isinstance(t, str)]
        self.tag_functions = [t for t in tags if not isinstance(t, str)]
        self._tags_from = tags_from
        self.plan = Plan(name, encoder, self.counters, policy.beta, max(0.01, policy.budget * SHARE), policy.near)

    def __repr__(self) -> str:
        return f"<FunctionCore {self.name}>"

    def _tag_names(self) -> tuple[str, ...]:
        """What may stand in the braces of a tag."""
        return self.signature.parameters

    def subject(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Subject:
        """What a call is about; TypeError for arguments that make no key, or no tag."""
        cache = self.cache
        text = self.signature.call_text(args, kwargs)
        key = cache.naming.entry_key(cache.settings.namespace, self.name, text)
        return Subject(key, self.name, self._tags(args, kwargs))

    def _tags(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[bytes, ...]:
        if not self.templates and not self.tag_functions:
            return ()
        tags: list[str] = []
        if self.templates:
            arguments = self.signature.arguments(self.signature.bind(*args, **kwargs))
            tags += [template.render(arguments) for template in self.templates]
        for function in self.tag_functions:
            tags += as_tags(function(*args, **kwargs))
        return tuple(dict.fromkeys(map(tag_hash, tags)))

    def _result_tags(self, value: Any) -> tuple[bytes, ...]:
        assert self._tags_from is not None
        return tuple(map(tag_hash, as_tags(self._tags_from(value))))

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        """A call, as the client takes it."""
        return Request(
            self.subject(args, kwargs),
            self.policy,
            self.encoder,
            self.counters,
            self.usual,
            functools.partial(self.fn, *args, **kwargs),
            self._result_tags if self._tags_from is not None else None,
            self.plan,
        )
