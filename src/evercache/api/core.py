"""What all calls of one cached function have in common."""

from __future__ import annotations

import functools
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from evercache.api.keyspace import Keyspace
from evercache.client.request import SHARE, Plan, Request, Usual
from evercache.codecs import Encoder
from evercache.observe import Counters
from evercache.policy import Policy
from evercache.protocol.identity import identity, location
from evercache.protocol.scope import Subject, tag_hash
from evercache.protocol.signature import Signature, TagTemplate

__all__ = ["FunctionCore", "Functions", "TagFunction", "TagSource", "as_tags"]

#: A function of the call's arguments that returns one tag or several.
TagFunction = Callable[..., str | Iterable[str]]
#: A template with parameter names, or such a function.
TagSource = str | TagFunction


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
        #: Where the function around this one was called, `file:line`, for warnings; "" where that is not known.
        self.made = ""
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


#: After so many functions that were found dead, and replaced by one of the same name, the garbage is left alone.
_REPLACED: Final = 3


class Functions:
    """The cached functions of one cache that are alive, and the counts of those that are dead.

    It keeps no function alive: an application factory makes the same ones again and again. No lock: each step on
    the dicts is one operation, and a lost count does no harm.
    """

    def __init__(self) -> None:
        self._alive: dict[weakref.ref[FunctionCore], tuple[str, Counters]] = {}
        self._past = Counters()
        #: The newest function of each name.
        self._newest: dict[str, weakref.ref[FunctionCore]] = {}
        #: Of functions whose names could be shared: how often one was found dead, or reported (`_REPLACED`). The
        #: names are those in the code, of which there are only so many.
        self._settled: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Functions {len(self)} alive>"

    def __len__(self) -> int:
        return len(self._alive)

    def __iter__(self) -> Iterator[FunctionCore]:
        return iter([core for reference in list(self._alive) if (core := reference()) is not None])

    def counters(self) -> Counters:
        """The counts of all functions, dead ones included."""
        total = self._past
        for core in self:
            total = total + core.counters
        return total

    def append(self, core: FunctionCore) -> None:
        """Add a function."""
        reference = weakref.ref(core, self._died)
        self._alive[reference] = core.name, core.counters
        self._newest[core.name] = reference

    def _died(self, reference: weakref.ref[FunctionCore]) -> None:
        name, counters = self._alive.pop(reference, ("", None))
        if counters is not None:
            self._past = self._past + counters
        if self._newest.get(name) is reference:
            del self._newest[name]

    def compare(self, core: FunctionCore, advice: str) -> str:
        """A warning, once for each function in the code, if another one is alive that has the name of this new one
        and differs from it in what is not part of the name; else ""."""
        key = f"{core.fn.__module__}.{core.fn.__qualname__}"
        own = "<" in core.name or "~" in core.name  # else it was given by name=, or imports lead to one only
        if not own or self._settled[key] >= _REPLACED:
            return ""
        found = self._difference(core)
        if found is None:
            return ""
        gc.collect()  # what is in no use any more is dead only then, since a class and its methods are a cycle
        if self._difference(core) is None:
            self._settled[key] += 1
            return ""
        self._settled[key] = _REPLACED
        path, before = found
        what = "their code" if path.endswith("__code__") else f"the free variable `{path}`"
        return (
            f"two functions are named {core.name} and share their entries, but differ in {what}, which is not part "
            f"of a key: {before} and {_place(core)}. {advice}, or pass what differs as an argument"
        )

    def _difference(self, core: FunctionCore) -> tuple[str, str] | None:
        """In what the newest living function of the same name differs, and where that one was written."""
        before = self._newest.get(core.name, lambda: None)()
        if before is None or before.fn is core.fn:
            return None
        path = identity(before.fn).differs(identity(core.fn))
        return (path, _place(before)) if path else None


def _place(core: FunctionCore) -> str:
    """Where a function was written, and made."""
    return f"{location(core.fn)} (made at {core.made})" if core.made else location(core.fn)
