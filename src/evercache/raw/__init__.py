"""Raw Redis clients (redis-py 5 or later) on the servers of a cache: docs/raw-clients.md."""

from evercache.errors import PackageMissing

try:
    import redis as _redis
except ImportError as error:
    raise PackageMissing(
        "raw Redis clients need redis-py, which is not installed: pip install 'evercache[redis]'"
    ) from error
if int(_redis.__version__.split(".")[0]) < 5:
    raise PackageMissing(
        f"raw Redis clients need redis-py 5 or later, not {_redis.__version__}: pip install 'evercache[redis]'"
    )

from evercache.raw.clients import RawClients
from evercache.raw.errors import ClientsClosed, NotAttached, NotSent

__all__ = ["ClientsClosed", "NotAttached", "NotSent", "RawClients"]
