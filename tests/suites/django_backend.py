"""One more backend beside Django's own, which runs their common tests; copied into its package `cache`."""

import os

from cache.tests import BaseCacheTests, caches_setting_for_tests
from django.test import TestCase, override_settings


@override_settings(
    CACHES=caches_setting_for_tests(
        BACKEND="evercache.integrations.django.Cache",
        LOCATION=os.environ["EVERCACHE_SUITE_URL"],
        exclude={"cull", "zero_cull"},  # the server makes room
    )
)
class EvercacheTests(BaseCacheTests, TestCase):
    """All that a backend of Django must do."""
