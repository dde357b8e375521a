"""The application: system checks, `manage.py evercache`, and `{% load evercache %}`."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

__all__ = ["EvercacheConfig"]


class EvercacheConfig(AppConfig):
    """`"evercache.integrations.django"` in INSTALLED_APPS. It has no tables."""

    name = "evercache.integrations.django"
    label = "evercache"
    verbose_name = "Cache"

    def ready(self) -> None:
        """Register the checks."""
        from evercache.integrations.django.checks import check_caches, check_deployed

        checks.register(check_caches, checks.Tags.caches)
        checks.register(check_deployed, checks.Tags.caches, deploy=True)
