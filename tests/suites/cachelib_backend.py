"""Put beside the tests of cachelib, as those of one more backend: theirs for all backends, run on our front."""

import os
import uuid

import pytest
from clear import ClearTests
from common import CommonTests
from delete_many_with_prefix import DeleteManyWithPrefixTests
from has import HasTests
from serializer import SerializerTests

from evercache import Cache
from evercache.integrations.cachelib import CachelibCache


@pytest.fixture(autouse=True)
def cache_factory(request, key_prefix):
    """A front for each call, each in a namespace of its own."""
    made = []

    def factory(self, *args, **kwargs):
        kwargs.setdefault("key_prefix", key_prefix)
        made.append(Cache(os.environ["EVERCACHE_SUITE_URL"], namespace=f"suite-{uuid.uuid4().hex[:12]}"))
        return CachelibCache(made[-1], *args, **kwargs)

    request.cls.cache_factory = factory
    yield
    for cache in made:
        cache.close()


class TestEvercache(CommonTests, ClearTests, HasTests, DeleteManyWithPrefixTests, SerializerTests):
    """The 21 tests that each backend of cachelib passes, without a prefix of keys and with one."""
