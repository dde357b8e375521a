"""The settings of a Django site for tests in this process; `setup()` is done once."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

__all__ = ["BACKEND", "caches_setting"]

BACKEND = "evercache.integrations.django.Cache"


def caches_setting(location: Any = "memory://", **more: Any) -> dict[str, dict[str, Any]]:
    """`CACHES` with one alias."""
    return {"default": {"BACKEND": BACKEND, "LOCATION": location, **more}}


if not settings.configured:
    settings.configure(
        SECRET_KEY="a secret key for tests, of some length",
        CACHES=caches_setting(),
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=["evercache.integrations.django", "tests.unit.django_shop"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    )
    django.setup()
