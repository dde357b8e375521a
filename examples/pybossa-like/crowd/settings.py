"""The settings of the site, named as PyBossa's, made of one URL: `EVERCACHE_URL` of the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["from_environment", "of_url"]

HERE = Path(__file__).parents[1]


def from_environment() -> dict[str, Any]:
    """The settings of this process."""
    return {
        "SECRET_KEY": os.environ.get("CROWD_SECRET_KEY", "a secret for this machine only"),
        "DATABASE": os.environ.get("CROWD_DATABASE", f"sqlite:///{HERE / 'crowd.sqlite'}"),
        "REDIS_KEYPREFIX": "crowd_cache",
        "REDIS_SOCKET_TIMEOUT": 2.0,  # PyBossa's default is None: for ever
        "RATE_LIMIT": 300,
        "RATE_PER": 15 * 60,
        **of_url(os.environ.get("EVERCACHE_URL", "redis://localhost:6379")),
    }


def of_url(url: str) -> dict[str, Any]:
    """`sentinel://:password@host:port,host:port/master?sentinel_password=...` or `redis://host:port`.

    The module of evercache takes the URL as it is (and does not need the others), that of 2013 the parts.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    split = [one.rpartition(":") for one in hosts.split(",")]
    pairs = [(host, int(port)) for host, _, port in split]
    settings: dict[str, Any] = {"EVERCACHE_URL": url, "REDIS_PASSWORD": unquote(login.partition(":")[2]) or None}
    if parts.scheme != "sentinel":
        host, port = pairs[0]
        return settings | {"REDIS_SENTINEL": None, "REDIS_HOST": host, "REDIS_PORT": port}
    secret = parse_qs(parts.query).get("sentinel_password", [None])[0]
    master = unquote(parts.path.strip("/").partition("/")[0])
    return settings | {"REDIS_SENTINEL": pairs, "REDIS_MASTER": master, "REDIS_SENTINEL_PASSWORD": secret}
