"""What is left out of other people's suites, each with the reason."""

from __future__ import annotations

__all__ = ["DJANGO_REDIS_LEFT_OUT", "LEFT_OUT", "MEMORY_ONLY"]

_VERSION = "looks at the key of a version that Flask-Caching keeps for each function; here a mark ends its entries"

#: Not run anywhere: about internals, or about what differs on purpose (docs/migrate-from-flask-caching.md).
LEFT_OUT: dict[str, str] = {
    "test_memoize.py::test_memoize_version_key_outlives_newest_entry": _VERSION,
    "test_memoize.py::test_memoize_version_key_expires_once_its_entries_have": _VERSION,
    "test_memoize.py::test_memoize_verhash_delete": _VERSION,
    "test_memoize.py::test_memoize_annotated_delete": _VERSION,
    "test_backend_cache.py::TestRedisCache::test_compat": "writes past the cache, which must not read that",
    "test_backend_cache.py::TestRedisCacheClientsOverride": "puts other clients and pickles into a backend's class",
    "test_backend_cache.py::TestMemcachedCache": "needs Memcached",
    "test_init.py::test_init_nullcache[MemcachedCache]": "needs Memcached",
}

#: Run in memory only, besides all that turn the clock of the process or start servers of their own.
MEMORY_ONLY: dict[str, str] = {
    "test_backend_cache.py": "names the classes of backends",
    "test_init.py::test_init_nullcache": "names the classes of backends",
    "test_serializer.py::test_values_are_stored_in_the_configured_format": "looks into the dict of this process",
    "test_cachelib.py": "names cachelib's own backends",
    "test_basic_app.py::test_app_custom_cache_backend": "brings a backend of its own",
    "test_hash_method.py::test_file_hash_method_is_independent": "names FileSystemCache",
}

_CLIENT = "calls or replaces parts of django-redis's own client"
_LOCK = "a lock is no entry of the cache, so has_key() does not tell of it"

#: Of django-redis's tests; docs/migrate-from-django-redis.md says what differs.
DJANGO_REDIS_LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(
        (
            "test_backend.py::TestDjangoRedisCache::test_set_call_empty_pipeline",
            "test_backend.py::TestDjangoRedisCache::test_delete_pattern_with_custom_count",
            "test_backend.py::TestDjangoRedisCache::test_delete_pattern_with_settings_default_scan_count",
            "test_backend.py::TestDjangoRedisCache::test_close_client",
            "test_backend.py::TestDjangoRedisCache::test_close_with_signal_parameter",
            "test_backend.py::TestDjangoRedisCache::test_primary_replica_switching",
            "test_backend.py::TestDjangoRedisCache::test_primary_replica_switching_with_index",
            "test_client.py::TestClientClose::test_close_client_disconnect_default",
            "test_client.py::TestClientClose::test_close_disconnect_settings",
            "test_client.py::TestClientClose::test_close_disconnect_settings_cache",
            "test_client.py::TestClientClose::test_close_disconnect_client_options",
        ),
        _CLIENT,
    ),
    "test_backend.py::TestDjangoRedisCache::test_lock": _LOCK,
    "test_backend.py::TestDjangoRedisCache::test_lock_not_blocking": _LOCK,
    "test_backend.py::TestDjangoRedisCache::test_lock_released_by_thread": _LOCK,
    "test_cache_options.py::test_custom_key_function": "expects nothing on the server but its own keys",
}
