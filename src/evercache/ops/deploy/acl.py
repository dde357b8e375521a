"""Who may do what at nodes and sentinels: least rights for each role, and the default user may do nothing.

Passwords stand there as SHA-256, so the file gives none away. `docs/security.md` says what each user could break
with its rights; `tests/real/test_rights.py` tries it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from evercache.ops.deploy.description import Description
from evercache.ops.greetings import GREETINGS

__all__ = ["APPLICATION", "User", "node_users", "sentinel_users"]

#: What the library sends to nodes; `docs/operations.md` has it, and a test runs the library under it.
APPLICATION: Final = (
    "+hello +client|setname +client|setinfo +select +info +time +role +wait +eval +evalsha +get +mget +set "
    "+setrange +exists +unlink +pexpire +pttl +hget +hmget +hgetall +hset +hdel +hlen +zadd +zrem +zcard +zscore "
    "+zmscore +zpopmin +zrangebyscore +xadd +xread +xrevrange +xtrim"
)
_GREETING: Final = "+ping +hello +client|setname +client|setinfo"
#: From the server manuals. Valkey 9 also lets a master hand over by itself, and pauses its clients for that.
_REPLICATION: Final = "+psync +replconf +ping"
_SENTINEL_AT_NODES: Final = (
    "+multi +exec +slaveof +ping +info +role +publish +subscribe +config|rewrite +script|kill "
    "+client|setname +client|kill +client|pause +client|unpause +failover"
)
_MONITORING: Final = (
    f"{_GREETING} +info +role +time +dbsize +config|get +client|list +acl|whoami +acl|dryrun +slowlog|get "
    "+latency|latest +subscribe"
)
_ASK_SENTINEL: Final = " ".join(
    f"+sentinel|{what}"
    for what in (
        "get-master-addr-by-name",
        "master",
        "masters",
        "replicas",
        "slaves",
        "sentinels",
        "myid",
        "ckquorum",
    )
)


#: Of the default user, which is off: nobody logs in as it, but many servers read an AOF in its name, and leave out
#: of transactions what it may not do (`ops/doctor/loading.py`). All that scripts wrote would be lost.
_LOADER: Final = "~* &* +@all"


@dataclass(frozen=True, slots=True)
class User:
    """Who logs in, and by which passwords."""

    name: str
    passwords: tuple[str, ...]


def node_users(users: Mapping[str, User], d: Description) -> str:
    """The ACL file of data nodes. `users` are by role."""
    application = d.application
    own = [f"~{d.namespace}:*", f"~{d.namespace}~*", *(f"~{pattern}" for pattern in application.keys)]
    # Queues of other libraries use publish and subscribe; the cache itself does not.
    own += [f"&{pattern}" for pattern in application.channels]
    none = "resetchannels -@all"  # Redis 6.2 gives a new user every channel
    rules = {
        "application": f"resetchannels {' '.join(own)} -@all {' '.join((APPLICATION, *application.commands))}",
        "replication": f"{none} {_REPLICATION}",
        "sentinel": f"resetchannels &{GREETINGS} -@all {_SENTINEL_AT_NODES}",
        "monitoring": f"resetchannels &{GREETINGS} -@all {_MONITORING}",
        "operator": "~* &* +@all",
    }
    return _file(rules, users, d.server.numbers, default=_LOADER)


def sentinel_users(users: Mapping[str, User], d: Description) -> str:
    """The ACL file of sentinels. The application asks and listens; only the operator changes anything.

    IS-MASTER-DOWN-BY-ADDR is for sentinels: it also votes, in any epoch, and each sentinel writes that epoch down.
    """
    rules = {
        "application": f"&* -@all {_GREETING} +info +role +subscribe +psubscribe +unsubscribe +punsubscribe "
        f"{_ASK_SENTINEL}",
        # Before a data node starts, it asks which one to follow.
        "replication": "resetchannels -@all +sentinel|get-master-addr-by-name",
        "sentinel": f"resetchannels &{GREETINGS} -@all {_GREETING} +info +role +publish "
        "+sentinel|is-master-down-by-addr",
        "monitoring": f"resetchannels -@all {_GREETING} +info +role {_ASK_SENTINEL}",
        "operator": "~* &* +@all",
    }
    return _file(rules, users, d.server.numbers)


def _file(rules: Mapping[str, str], users: Mapping[str, User], version: Sequence[int], default: str = "") -> str:
    lines = [f"user default reset {default}".rstrip()]
    for role, rule in rules.items():
        if tuple(version[:2]) == (7, 0):
            rule = rule.replace(" +client|setinfo", "")  # Redis 7.0 refuses subcommands that it does not know
        digests = " ".join(f"#{hashlib.sha256(one.encode()).hexdigest()}" for one in users[role].passwords)
        lines.append(f"user {users[role].name} reset on {digests} {rule}")
    return "\n".join(lines) + "\n"
