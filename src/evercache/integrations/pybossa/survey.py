"""Asks the servers of a site what they are: for `check`. Redis-py, with short time-outs; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from evercache.integrations.pybossa.advice import Finding
from evercache.integrations.pybossa.settings import SiteSettings
from evercache.net.types import ConnectionOptions
from evercache.protocol.topology import ELECTION, LONGEST_WAIT
from evercache.protocol.types import Address

__all__ = ["survey"]

#: Seconds for each connection and answer.
_PATIENCE = 2.0


def survey(settings: SiteSettings) -> Iterator[Finding]:
    """What is wrong with the servers, or will be. No error is raised."""
    location = settings.location
    address: Address | None = location.nodes[0] if location.nodes else None
    if location.kind == "memory":
        return
    if location.kind == "sentinel":
        found: list[Address] = []
        yield from _sentinels(settings, found)
        address = found[0] if found else None
    if address is not None:
        yield from _node(settings, address)


def _client(address: Address, options: ConnectionOptions, db: int = 0) -> redis.Redis:
    told: dict[str, Any] = {
        "username": options.credentials.username,
        "password": options.credentials.password,
        "socket_timeout": _PATIENCE,
        "socket_connect_timeout": _PATIENCE,
        "retry": Retry(NoBackoff(), 1),  # by itself redis-py goes on for four seconds, also at a wrong password
        "decode_responses": True,
        "db": db,
    }
    if address.path is not None:
        return redis.Redis(unix_socket_path=address.path, **told)
    if options.tls is not None:
        tls = options.tls
        told |= {
            "ssl": True,
            "ssl_ca_certs": tls.ca_certs,
            "ssl_certfile": tls.certfile,
            "ssl_keyfile": tls.keyfile,
            "ssl_cert_reqs": "required" if tls.verify else "none",
            "ssl_check_hostname": tls.check_hostname,
        }
    return redis.Redis(host=address.host, port=address.port, **told)


def _sentinels(settings: SiteSettings, found: list[Address]) -> Iterator[Finding]:
    location, name = settings.location, settings.location.service or ""
    answers: dict[Address, dict[str, Any]] = {}
    for address in location.sentinels:
        try:
            with _client(address, location.sentinel_options) as client:
                answers[address] = _pairs(client.execute_command("SENTINEL", "MASTER", name))
        except redis.AuthenticationError:
            yield Finding(
                "error", f"sentinel {address} wants a password: give EVERCACHE_URL with sentinel_password="
            )
        except redis.ResponseError as error:
            if "No such master" in str(error):
                yield Finding("error", f"sentinel {address} knows no master {name!r}{_known(location, address)}")
            else:
                yield Finding("error", f"{address} is no sentinel ({_first(error)}): check REDIS_SENTINEL")
        except (redis.RedisError, OSError) as error:
            yield Finding(
                "risk",
                f"sentinel {address} does not answer ({type(error).__name__}): start it, or correct REDIS_SENTINEL",
            )
    if not answers:
        yield Finding("error", "no sentinel names a master: cached functions run at each call until one does")
        return
    facts = next(iter(answers.values()))
    found.append(Address(str(facts["ip"]), int(facts["port"])))
    sentinels, quorum = int(facts.get("num-other-sentinels", 0)) + 1, int(facts.get("quorum", 0))
    if quorum > sentinels or sentinels < 2:
        yield Finding(
            "risk",
            f"{sentinels} sentinel(s) with quorum {quorum}: no failover can ever be agreed; run three, quorum 2",
        )
    elif sentinels < 3:
        yield Finding("risk", f"{sentinels} sentinels: without one of them no failover can be agreed; run three")
    yield from _promotion(settings, max(int(one.get("down-after-milliseconds", 0)) for one in answers.values()))
    if not int(facts.get("num-slaves", 0)):
        yield Finding("risk", "the master has no replica, so nothing can take its place: add one")
    if len({(one["ip"], one["port"]) for one in answers.values()}) > 1:
        yield Finding(
            "risk", "the sentinels name different masters: a failover is under way, or they were set up apart"
        )


def _promotion(settings: SiteSettings, down_after: int) -> Iterator[Finding]:
    """Whether a command of `master` still waits when the sentinels promote another one."""
    needed = down_after / 1000 + ELECTION
    wait = min(needed, LONGEST_WAIT) if settings.wait is None else settings.wait
    if down_after > 10_000:
        yield Finding("risk", f"down-after-milliseconds {down_after}: a dead master is missed that late; use 5000")
    takes = f"{needed:g} s (down-after-milliseconds {down_after}, and the election)"
    if wait < needed:
        change = "lower that to 5000"
        if settings.wait is not None:
            change = f"raise EVERCACHE_WAIT to {needed:g}, or leave it out"
        yield Finding(
            "risk", f"a command of sentinel.master waits {wait:g} s for another master, but the sentinels take up "
            f"to {takes}: {change}",
        )  # fmt: skip
    else:
        yield Finding(
            "note", f"a command of sentinel.master waits up to {wait:g} s for another master; the sentinels take "
            f"up to {takes}",
        )  # fmt: skip


def _known(location: Any, address: Address) -> str:
    try:
        with _client(address, location.sentinel_options) as client:
            names = [_pairs(one)["name"] for one in client.execute_command("SENTINEL", "MASTERS")]
    except (redis.RedisError, OSError, KeyError):
        names = []
    return f": set REDIS_MASTER to {' or '.join(map(repr, names))}" if names else ": check REDIS_MASTER"


def _pairs(answer: Any) -> dict[str, Any]:
    if isinstance(answer, dict):
        return {str(key): value for key, value in answer.items()}
    return dict(zip(answer[::2], answer[1::2], strict=False))


def _first(error: Exception) -> str:
    return str(error).split("\n")[0][:80]


def _node(settings: SiteSettings, address: Address) -> Iterator[Finding]:
    options = settings.location.node_options
    try:
        with _client(address, options) as client:
            facts: dict[str, Any] = client.info("everything")
        findings = list(_facts(address, facts))
        yield from findings
        if any(finding.level == "error" for finding in findings):
            return
        for db, what in ((options.db, "REDIS_DB"), (settings.bookkeeping_db, "EVERCACHE_BOOKKEEPING_DB")):
            with _client(address, options, db) as client:
                yield from _database(settings, client, db, what)
    except redis.AuthenticationError as error:
        yield Finding("error", f"{address} refuses the password ({_first(error)}): check REDIS_PASSWORD")
    except (redis.RedisError, OSError) as error:
        yield Finding("error", f"{address} does not answer ({type(error).__name__}: {_first(error)}): start it")


def _database(settings: SiteSettings, client: redis.Redis, db: int, what: str) -> Iterator[Finding]:
    try:
        keys = client.scan(count=100)[1]
    except redis.ResponseError as error:
        yield Finding("error", f"{what} {db} cannot be used ({_first(error)}): give a lower number")
        return
    others = [key for key in keys if not str(key).startswith(f"{settings.namespace}~")]
    if db == settings.bookkeeping_db != settings.location.node_options.db and others:
        yield Finding("note", f"database {db} is for the marks of deletes, and others keep keys in it as well")


def _facts(address: Address, facts: dict[str, Any]) -> Iterator[Finding]:
    mode = facts.get("redis_mode") or facts.get("server_mode")
    if mode == "cluster":
        yield Finding(
            "error", f"{address} is a node of a Redis Cluster, which is not supported: use Sentinel or one server"
        )
        return
    if mode == "sentinel":
        yield Finding("error", f"{address} is a sentinel: name it in REDIS_SENTINEL, not in REDIS_HOST")
        return
    if facts.get("role") != "master":
        yield Finding("error", f"{address} is a replica: give the master, or the sentinels")
    policy = str(facts.get("maxmemory_policy", ""))
    if policy.startswith("allkeys-"):
        yield Finding(
            "risk", f"{address} evicts by {policy}, also queues and the marks of deletes: set maxmemory-policy "
            "to volatile-lru",
        )  # fmt: skip
    if not int(facts.get("aof_enabled", 0)):
        yield Finding(
            "note", f"{address} writes no append-only file: a restart may lose what was kept since the last "
            "snapshot; set appendonly yes",
        )  # fmt: skip
