"""What `import evercache` imports: little, as every process of an application pays for it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import evercache

#: Modules that take long to import, or that only some applications need.
LATER = [
    *("asyncio", "concurrent.futures", "ctypes", "email", "hiredis", "importlib.metadata", "importlib.resources"),
    *("pickle", "random", "socket", "ssl", "subprocess", "tempfile", "zipfile", "zstandard"),
    *("click", "flask", "cachelib", "jinja2", "matplotlib", "pytest", "redis", "rich", "sqlalchemy"),
    *("evercache.ops.cli", "evercache.ops.demo", "evercache.integrations", "evercache.ops", "evercache.testing"),
    *("evercache.client._async", "evercache.client._sync", "evercache.connect", "evercache.topology"),
    *("evercache.net.blocking", "evercache.net.pipelined", "evercache.net.memory", "evercache.net.resp"),
]
#: Nothing of these may come with a cache whose entries are in the process.
OF_SERVERS = ["evercache.net.blocking", "evercache.net.pipelined"]
OF_OTHERS = ["evercache.integrations", "evercache.ops", "evercache.testing", "pickle", "pytest", "redis", "flask"]


def imported(code: str) -> set[str]:
    """What an interpreter has imported after this code."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    found: list[str] = json.loads(done.stdout)
    return set(found)


def test_importing_the_package_imports_nothing_that_only_a_deployment_needs() -> None:
    modules = imported("from evercache import Cache")
    assert "evercache.cache" in modules
    assert modules & set(LATER) == set()


def test_a_cache_imports_what_its_url_needs_and_no_more() -> None:
    in_memory = imported("from evercache import Cache; Cache('memory://')")
    assert {"evercache.net.memory", "asyncio", "zstandard"} <= in_memory
    assert in_memory & {*OF_SERVERS, *OF_OTHERS} == set()
    at_a_server = imported("from evercache import Cache; Cache('redis://cache.example')")
    assert {*OF_SERVERS, "asyncio", "zstandard", "encodings.idna"} <= at_a_server
    assert at_a_server & set(OF_OTHERS) == set()


@pytest.mark.parametrize("name", ["AsyncCachedFunction", "AsyncCachedMany", "CachedFunction", "CachedMany"])
def test_classes_of_cached_functions_are_found_in_the_package(name: str) -> None:
    found: Any = getattr(evercache, name)
    assert found.__name__ == name
    assert name in dir(evercache)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="CachedFunktion"):
        evercache.CachedFunktion  # type: ignore[attr-defined]
