"""The public surface: nothing is missing, and everything is explained."""

from __future__ import annotations

import inspect

import pytest

import evercache
import evercache.testing
from evercache import AsyncCachedFunction, AsyncCachedMany, Cache, CachedFunction, CachedMany

OPERATIONS = [
    *("get", "set", "add", "delete", "touch", "expires_in", "incr"),
    *("get_many", "set_many", "delete_many"),
    *("get_or_compute", "stamp", "invalidate_tag", "clear", "health"),
]
CACHE = {
    *("cached", "cached_many", "register", "stats", "subscribe", "disabled", "close", "aclose"),
    *("master", "replica", "amaster", "areplica", "raw"),
    *("changing", "achanging", "invalidate_on_commit"),
    *("__enter__", "__exit__", "__aenter__", "__aexit__"),
    *OPERATIONS,
    *(f"a{name}" for name in OPERATIONS),
}
FUNCTION = {
    *("__call__", "__get__", "key", "uncached", "stats"),
    *("invalidate", "invalidate_all", "refresh", "peek", "explain", "explain_code"),
    *("ainvalidate", "ainvalidate_all", "arefresh", "apeek", "aexplain"),
}
MANY = FUNCTION - {"explain_code"}
EXPORTED = {
    *("CachedMany", "AsyncCachedMany"),
    *("Cache", "Ack", "CachedFunction", "AsyncCachedFunction", "Key", "Stats", "Health", "NodeHealth"),
    *("Explanation", "EvercacheError", "UnavailableError", "JSONCodec", "SignedPickleCodec", "StrictCodec"),
}


def public(cls: type) -> dict[str, object]:
    return {name: value for name, value in inspect.getmembers(cls) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (Cache, CACHE),
        (CachedFunction, FUNCTION),
        (AsyncCachedFunction, FUNCTION),
        (CachedMany, MANY),
        (AsyncCachedMany, MANY),
    ],
)
def test_no_name_of_the_surface_is_missing(owner: type, names: set[str]) -> None:
    assert not {name for name in names if not hasattr(owner, name)}
    assert not {name for name in public(owner) if name not in names}, "new names belong into this list"


def test_exported_names() -> None:
    assert set(evercache.__all__) >= EXPORTED
    assert not {name for name in evercache.__all__ if not hasattr(evercache, name)}
    assert not {name for name in evercache.testing.__all__ if not hasattr(evercache.testing, name)}
    assert {"memory", "off", "record"} <= set(evercache.testing.__all__)


@pytest.mark.parametrize("module", [evercache, evercache.testing], ids=lambda m: m.__name__)
def test_every_public_name_has_a_docstring(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        value = getattr(module, name)
        assert (value.__doc__ or "").strip(), name
        if inspect.isclass(value):
            bare = [
                member
                for member, what in vars(value).items()
                if not member.startswith("_")
                and (callable(what) or isinstance(what, (property, classmethod, staticmethod)))
                and not (getattr(value, member).__doc__ or "").strip()
            ]
            assert not bare, f"{name}: {bare}"


@pytest.mark.parametrize("cls", [Cache, CachedFunction, AsyncCachedFunction, CachedMany, AsyncCachedMany])
def test_every_public_method_has_a_docstring(cls: type) -> None:
    bare = [name for name, what in public(cls).items() if not (getattr(what, "__doc__", None) or "").strip()]
    assert not bare
    assert (cls.__call__.__doc__ or "").strip()


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_twins_take_the_same_arguments(name: str) -> None:
    sync, twin = (inspect.signature(getattr(Cache, n)).parameters for n in (name, f"a{name}"))
    assert {n: (p.kind, p.default) for n, p in sync.items()} == {n: (p.kind, p.default) for n, p in twin.items()}
    assert inspect.iscoroutinefunction(getattr(Cache, f"a{name}"))
    assert not inspect.iscoroutinefunction(getattr(Cache, name))


def test_all_errors_are_in_one_place_and_explained() -> None:
    import evercache.errors as errors

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.EvercacheError)
        assert (error.__doc__ or "").strip(), name
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert defined == set(errors.__all__)
