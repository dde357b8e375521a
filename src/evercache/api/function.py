"""What a cached function is, apart from its calls: a name, a key, a binding to an object."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

from evercache.api.core import FunctionCore
from evercache.api.keyspace import Key
from evercache.api.template import Template
from evercache.errors import SyncInLoopError
from evercache.protocol.canonical import local_mark
from evercache.results import Stats

__all__ = ["CallableFace", "FunctionFace"]

P = ParamSpec("P")
R = TypeVar("R")


class CallableFace(Generic[P, R]):
    """What all kinds of cached functions can do. Immutable; a method is bound by `__get__`."""

    #: The class of bound methods: without the code that was made for the plain function.
    _general: ClassVar[type[Any]]
    _template: ClassVar[Template | None] = None

    @classmethod
    def _made(cls, core: FunctionCore, binding: str, template: Template | None) -> Any:
        if template is None or binding != "function":
            return cls(core, binding=binding)
        # A class for each function: Python looks for `__call__` in the class of what is called.
        body = {"__call__": staticmethod(template.call), "_template": template, "__doc__": cls.__doc__}
        own: Any = type(
            cls.__name__, (cls,), body | {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        )
        own._general = cls
        return own(core, binding=binding)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._general = cls

    def __init__(self, core: FunctionCore, bound: tuple[Any, ...] = (), binding: str = "function") -> None:
        self._core = core
        self._bound = bound
        self._binding = binding
        if not bound:
            functools.update_wrapper(self, core.fn)  # type: ignore[arg-type]

    def __set_name__(self, owner: type, name: str) -> None:
        local_mark(owner)  # what the class holds now, before anything changes it

    def __repr__(self) -> str:
        return f"<cached {self._core.name}{' of ' + repr(self._bound[0]) if self._bound else ''}>"

    def __getattr__(self, name: str) -> Any:
        # A bound method shows what its function shows.
        if name in ("_core", "_bound", "_binding"):
            raise AttributeError(name)
        if name == "__wrapped__":
            return self.uncached
        return getattr(self._core.fn, name)

    def __eq__(self, other: object) -> bool:
        # As bound methods are: equal for the same function and the same object.
        if not isinstance(other, CallableFace):
            return NotImplemented
        same = len(self._bound) == len(other._bound) and all(map(operator.is_, self._bound, other._bound))
        return same and self._core is other._core

    def __hash__(self) -> int:
        return hash((id(self._core), *map(id, self._bound)))

    def __reduce__(self) -> Any:
        # Pickled by name, as a plain function is: task queues rely on it.
        if self._bound:
            return getattr, (self._bound[0], self._core.fn.__name__)
        return self._core.fn.__qualname__

    @property
    def uncached(self) -> Callable[P, R]:
        """The plain function."""
        fn = self._core.fn
        return functools.partial(fn, *self._bound) if self._bound else fn

    def stats(self) -> Stats:
        """Counts of this function since the process began."""
        return Stats(self._core.counters)

    def _check_loop(self, name: str) -> None:
        """The blocking form on a coroutine function would hold the loop that the function needs."""
        if self._core.is_async:
            import asyncio  # not with the package

            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return
            raise SyncInLoopError(
                f"{self._core.name}.{name}() would block the running event loop: use `await "
                f"{self._core.fn.__name__}.a{name}(...)`"
            )

    def _bind(self, instance: Any, owner: Any) -> Any:
        match self._binding:
            case "static":
                return self
            case "class":
                return self._general(self._core, (owner if owner is not None else type(instance),))
        if instance is None or self._bound:
            return self
        return self._general(self._core, (instance,))


class FunctionFace(CallableFace[P, R]):
    """The same for functions whose call has one entry."""

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of this call's entry as it stands on the server; direct operations take it too."""
        subject = self._core.subject(self._bound + args, kwargs)
        return Key(subject.key, subject.function, self._core.cache)

    def explain_code(self) -> str:
        """The code that was made for this function and runs at each call; "" where there is none."""
        return "" if self._template is None or self._bound else self._template.source
