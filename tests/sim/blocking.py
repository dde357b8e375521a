"""The blocking API of a process with threads, in the shape that the simulator's own coroutines use.

What visitors do and what the oracle is told are coroutines, the same for tasks and for threads. In a thread
`await cache.aget(key)` calls `cache.get(key)`, and `await` of anything else waits for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from greenlet import getcurrent

from tests.sim.threads import SimThread, outside

__all__ = ["AsTasks", "Blocking", "Both", "blocking_function"]


class Blocking:
    """A cache, a cached function or a part of a client: `await it.aget()` is `it.get()` in the thread that runs."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __repr__(self) -> str:
        return f"<Blocking {self._of!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return _call(self._of, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        of = self._of
        if not name.startswith("a") or not hasattr(of, name) or not hasattr(of, name[1:]):
            return getattr(of, name)
        blocking = getattr(of, name[1:])
        if name == "achanging":
            return lambda *what, **more: _Around(blocking(*map(_plain, what), **more))
        return lambda *args, **kwargs: _call(blocking, *map(_plain, args), **kwargs)

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        """Of the link to the master, whose method has the same name in both twins."""
        return outside(self._of.run, *args, **kwargs)


class Both:
    """The same in a process with threads and an event loop: each uses its own twin."""

    def __init__(self, threads: Blocking, tasks: Any) -> None:
        self._threads, self._tasks = threads, tasks

    def __repr__(self) -> str:
        return f"<Both {self._tasks!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        coroutine: Coroutine[Any, Any, Any] = self._mine()(*args, **kwargs)
        return coroutine

    def __getattr__(self, name: str) -> Any:
        mine = getattr(self._mine(), name)
        return (lambda *args, **kwargs: mine(*map(_plain, args), **kwargs)) if callable(mine) else mine

    def _mine(self) -> Any:
        return self._threads if type(getcurrent()) is SimThread else self._tasks


def _plain(argument: Any) -> Any:
    if isinstance(argument, Both):
        argument = argument._mine()
    return argument._of if isinstance(argument, Blocking) else argument


async def _call(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return outside(call, *args, **kwargs)


class _Around:
    """A `with` block as an `async with` block."""

    def __init__(self, block: Any) -> None:
        self._block = block

    async def __aenter__(self) -> Any:
        return outside(self._block.__enter__)

    async def __aexit__(self, *error: Any) -> Any:
        return outside(self._block.__exit__, *error)


def blocking_function(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """A coroutine function of the simulator as a function that blocks its thread."""

    def run(*args: Any, **kwargs: Any) -> Any:
        me = getcurrent()
        assert isinstance(me, SimThread)
        return me.finish(function(*args, **kwargs))

    run.__name__, run.__qualname__, run.__module__ = function.__name__, function.__qualname__, function.__module__
    run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    return run


class AsTasks:
    """A part of a blocking client, for whoever wraps methods of the asynchronous one.

    What is a coroutine there is one here, and what is put in its place blocks again.
    """

    def __init__(self, blocking: Any, asynchronous: Any) -> None:
        vars(self).update(_of=blocking, _like=asynchronous)

    def __getattr__(self, name: str) -> Any:
        method, like = getattr(self._of, name), getattr(self._like, name)
        if inspect.iscoroutinefunction(method) or not callable(method):
            return method if callable(method) or name == "serving" else AsTasks(method, like)
        if not inspect.iscoroutinefunction(like):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    def __setattr__(self, name: str, wrapped: Any) -> None:
        if inspect.iscoroutinefunction(wrapped) and not inspect.iscoroutinefunction(getattr(self._of, name)):
            setattr(self._of, name, lambda *args, **kwargs: _at_once(wrapped(*args, **kwargs)))
        else:
            setattr(self._of, name, wrapped)


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing but calls which block."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError(f"{coroutine!r} awaits something else")
