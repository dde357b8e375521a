"""System checks of `CACHES`: what is wrong, and what is risky where a site is deployed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured

from evercache.errors import ConfigurationError
from evercache.integrations.django.backend import Cache

__all__ = ["check_caches", "check_deployed"]


def _ours() -> Iterator[tuple[str, Cache]]:
    for alias in settings.CACHES:
        if isinstance(backend := caches[alias], Cache):
            yield alias, backend


def check_caches(**_: Any) -> list[CheckMessage]:
    """Settings that cannot be meant."""
    found: list[CheckMessage] = []
    for alias, backend in _ours():
        try:
            backend.evercache  # noqa: B018
        except (ImproperlyConfigured, ConfigurationError) as error:
            found.append(Error(f"CACHES[{alias!r}]: {error}", id="evercache.E001"))
    return found


def check_deployed(**_: Any) -> list[CheckMessage]:
    """`check --deploy`: what is no mistake on the machine of a developer."""
    found: list[CheckMessage] = []
    for alias, setting in settings.CACHES.items():
        if setting["BACKEND"].endswith(".DummyCache"):
            found.append(
                Warning(
                    f"CACHES[{alias!r}] is a DummyCache: nothing is cached",
                    hint="name a backend in the settings of production",
                    id="evercache.W001",
                )
            )
    for alias, backend in _ours():
        try:
            location = backend.evercache.location
        except (ImproperlyConfigured, ConfigurationError):
            continue  # `check_caches` has said it
        if location.kind == "memory":
            found.append(
                Warning(
                    f"CACHES[{alias!r}] keeps its entries in the memory of each process",
                    hint="give LOCATION the URL of a server, or set EVERCACHE_URL",
                    id="evercache.W002",
                )
            )
            continue
        if not location.node_options.credentials.password:
            found.append(
                Warning(
                    f"CACHES[{alias!r}]: the servers are used without a password, so whoever reaches them can read "
                    "and write the cache",
                    hint="docs/security.md has the users of a deployment and their rights",
                    id="evercache.W003",
                )
            )
        if not backend.key_prefix and "namespace" not in backend._options:
            found.append(
                Warning(
                    f"CACHES[{alias!r}] has no KEY_PREFIX: another Django site on these servers, also without one, "
                    "would read and clear the same entries",
                    hint='write KEY_PREFIX="name of the site"',
                    id="evercache.W004",
                )
            )
    return found
