"""The extension object of a site: `sentinel = Sentinel()`, and later `sentinel.init_app(app)`."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from evercache.integrations.pybossa.configured import LOG, Home
from evercache.integrations.pybossa.settings import SiteSettings, as_mapping, load
from evercache.process import new_lock
from evercache.raw import RawClients

if TYPE_CHECKING:
    import redis
    from redis.sentinel import Sentinel as RedisSentinel

__all__ = ["Sentinel"]

_LOCAL = "settings_local"


class Sentinel:
    """The Redis servers of a site: two whole redis-py clients, the same objects before and after `init_app`.

    Nothing is opened before the first use, and no setting raises: what is wrong is one line in the log, and
    cached functions run. Where nothing was configured before the first use, a module `settings_local` is;
    where there is none, the clients are of localhost until `init_app`, as in PyBossa.
    Guarded by: `_lock` for the configuration.
    """

    def __init__(self, app: Any = None) -> None:
        self._clients = RawClients(read_your_writes=True, missing=self._missing)
        #: For everything: commands go to the master.
        self.master: redis.Redis = self._clients.master
        #: For reads: at a replica that has what this process wrote; the master where there is none.
        self.slave: redis.Redis = self._clients.replica
        self._lock = new_lock()
        #: The cache, once it is configured.
        self.home: Home | None = None
        self._searched = False
        #: Whether settings came that could not be used.
        self._wrong = False
        #: Of localhost, where a command came before any settings.
        self._early: Home | None = None
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<Sentinel {self.home.settings if self.home else 'not configured'}>"

    def init_app(self, app: Any) -> None:
        """Take the settings of a Flask application; again for another one."""
        self.configure(app)

    def configure(self, source: Any) -> bool:
        """Take the settings from an application, a module, or a mapping; False when they are wrong (and logged)."""
        self._searched = True
        try:
            settings = SiteSettings.read(as_mapping(source))
            if self.home is not None and self.home.settings == settings:
                return True  # another application of the same site, as in tests
            home = Home(settings)
            if home.settings.location.kind != "memory":
                self._connect(home)
        except Exception as error:  # the site must start
            self._wrong = True
            LOG.error("the cache is not configured, so every cached function runs: %s", error)
            return False
        with self._lock:
            before, self.home, self._wrong = self.home or self._early, home, False
            self._early = None
        LOG.info("the cache %r is at %s", home.settings.prefix, home.settings.location.redacted())
        if before is not None:
            before.close()
        return True

    def found(self) -> Home | None:
        """The cache; where none is configured, of a module `settings_local`, looked for once."""
        if self.home is None and not self._searched:
            with self._lock:
                first, self._searched = not self._searched, True
            if first:
                self._search()
        return self.home

    def _missing(self) -> str:
        """A command came before any settings: they may be in `settings_local`, else it goes to localhost."""
        home = self.found()
        if home is None and not self._wrong:
            with self._lock:
                if self._early is None and self.home is None:
                    self._early = Home(SiteSettings.read({"REDIS_HOST": "localhost"}))
                    self._connect(self._early)
                    LOG.warning(
                        "a command came before sentinel.init_app(app): it goes to %s, as redis.Redis() does",
                        self._early.settings.location.redacted(),
                    )
        return f"{self!r}: call sentinel.init_app(app) first; where it was, the log says what is wrong"

    def _connect(self, home: Home) -> None:
        """Make these the servers of both clients."""
        settings = home.settings
        self._clients.attach(home.cache)
        self._clients.change(socket_timeout=settings.socket_timeout, retry=settings.retry, wait=settings.wait)

    def _search(self) -> None:
        try:
            if importlib.util.find_spec(_LOCAL) is None:
                LOG.warning("no cache is configured, so every cached function runs: call sentinel.init_app(app)")
                return
            settings = load(_LOCAL)
        except Exception as error:  # the module's own
            LOG.error("the cache is not configured, so every cached function runs: %s: %r", _LOCAL, error)
            return
        self.configure(settings)

    @property
    def connection(self) -> RedisSentinel | None:
        """redis-py's own `Sentinel` for the same sentinels; None where there are none, or nothing is configured."""
        home = self.found()
        if home is None or home.settings.location.kind != "sentinel":
            return None
        from redis.sentinel import Sentinel as RedisSentinel

        location = home.settings.location
        node, own = location.node_options, location.sentinel_options.credentials
        timeout = home.settings.socket_timeout
        asked: dict[str, Any] = {"socket_timeout": timeout, "username": own.username, "password": own.password}
        made: RedisSentinel = RedisSentinel(  # type: ignore[no-untyped-call]
            [(address.host, address.port) for address in location.sentinels],
            sentinel_kwargs=asked,
            socket_timeout=timeout,
            username=node.credentials.username,
            password=node.credentials.password,
            db=node.db,
        )
        return made

    def close(self) -> None:
        """End the cache and both clients; cached functions run from now on."""
        with self._lock:
            homes, self.home, self._early = (self.home, self._early), None, None
        for home in homes:
            if home is not None:
                home.close()
