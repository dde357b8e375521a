"""The settings of Django's own tests, with this library behind the default cache."""

import os

from test_sqlite import *  # noqa: F403  # of Django's tests

CACHES = {
    "default": {
        "BACKEND": "evercache.integrations.django.Cache",
        "LOCATION": os.environ["EVERCACHE_SUITE_URL"],
    }
}
