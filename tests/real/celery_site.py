"""A site with Celery whose queue and results are on raw clients; run with a URL, this is its worker."""

from __future__ import annotations

import sys
from typing import Any

import celery
from celery.backends.redis import RedisBackend
from kombu.transport import redis as kombu_redis

from evercache import Cache

__all__ = ["site"]


def site(cache: Cache) -> tuple[celery.Celery, Any]:
    """The application and its one task, which notes in a file that it was run."""

    class Channel(kombu_redis.Channel):  # type: ignore[misc]
        def _get_pool(self, asynchronous: bool = False) -> Any:
            """As the one for Sentinel has it; of its own, since a channel closes it."""
            self.keyprefix_fanout = self.keyprefix_fanout.format(db=cache.location.node_options.db)
            pool = cache.raw().master.connection_pool
            if asynchronous:
                _tell_of_ends(pool, self)
            return pool

    transport = type("Transport", (kombu_redis.Transport,), {"Channel": Channel})

    class Backend(RedisBackend):  # type: ignore[misc]
        def _create_client(self, **_: Any) -> Any:
            return cache.master

    app = celery.Celery("shop", broker="redis://", backend="redis://", set_as_current=False)
    app.conf.update(
        broker_transport=transport,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=1,
        task_acks_late=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_hijack_root_logger=False,
    )
    app.backend_cls = Backend

    @app.task(name="double")  # type: ignore[untyped-decorator]
    def double(path: str, n: int) -> int:
        with open(path, "ab", buffering=0) as file:
            file.write(b"%d\n" % n)
        return 2 * n

    return app, double


def _tell_of_ends(pool: Any, channel: Any) -> None:
    """A channel's loop has to hear of a connection that ends; kombu's own connections tell it so."""
    make = pool.make_connection

    def made() -> Any:
        connection = make()
        end = connection.disconnect

        def disconnect(*args: Any, **kwargs: Any) -> None:
            end(*args, **kwargs)
            if channel._registered:
                channel._on_connection_disconnect(connection)

        connection.disconnect = disconnect
        return connection

    pool.make_connection = made


if __name__ == "__main__":
    with Cache(sys.argv[1]) as here:
        worker, _ = site(here)
        worker.worker_main(["worker", "--pool=solo", "--without-gossip", "--without-mingle", "--loglevel=WARNING"])
