"""Settings for django-redis's own tests, with this library behind every alias; copied into their `settings`."""

import os

import django_redis

import evercache.integrations.django as ours
from evercache.integrations.django.structures import Client

SECRET_KEY = "django_tests_secret_key"
_URL = os.environ["EVERCACHE_SUITE_URL"]
_BASE = {
    "BACKEND": "evercache.integrations.django.Cache",
    "LOCATION": _URL,
    "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
}
CACHES = {
    "default": _BASE,
    "doesnotexist": {**_BASE, "LOCATION": "redis://127.0.0.1:56379?db=1"},
    "sample": _BASE,
    "with_prefix": {**_BASE, "KEY_PREFIX": "test-prefix"},
}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
USE_TZ = False

# Tests ask these which of django-redis's clients and serializers is behind.
Client._serializer = None
Client._has_compression_enabled = lambda self: False
django_redis.get_redis_connection = ours.get_redis_connection
