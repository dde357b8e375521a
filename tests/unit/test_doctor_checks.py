"""Every check of the doctor as a function of facts: it fires, it does not, and it says what it cannot see."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.unit.doctor_facts import (
    HOSTS,
    NAME,
    NOW,
    client,
    config,
    entry,
    group,
    host,
    info,
    node,
    process,
    program,
    sentinel,
    sound,
)

from evercache.ops.doctor import Facts, Result, Severity, examine, registered, verdict
from evercache.ops.doctor.facts import Certificate, Clock, Group, HostFacts
from evercache.ops.doctor.loading import KEYS, QUESTIONS, left_out
from evercache.protocol.types import Address

Change = Callable[[Facts], Facts]
GONE = {"error": "it does not answer"}
NO_CONFIG = {"config": {}, "hidden": {"CONFIG": "CONFIG: NOPERM"}}


def all_of(*changes: Change) -> Change:
    def change(facts: Facts) -> Facts:
        for one in changes:
            facts = one(facts)
        return facts

    return change


def result_of(name: str, facts: Facts) -> Result:
    return next(one for one in examine(facts) if one.check.name == name)


AUTHORITY = "commonName=an authority"
DAY = 86400.0


def issued(days: float, *, since: float = -1.0, fits: bool = True, issuer: str = AUTHORITY) -> Certificate:
    """A certificate for a host, with so many days left."""
    return Certificate("commonName=cache-2", issuer, NOW + since * DAY, NOW + days * DAY, ("10.0.0.9",), fits)


def authority(days: float, name: str = AUTHORITY, issuer: str = AUTHORITY) -> Certificate:
    return Certificate(name, issuer, NOW - DAY, NOW + days * DAY)


def secure(facts: Facts) -> Facts:
    """By TLS everywhere, and everything good for long."""
    nodes = [
        replace(one, certificate=issued(300), config={**one.config, "tls-cert-file": "/etc/evercache/tls/tls.crt"})
        for one in facts.nodes
    ]
    sentinels = [replace(one, certificate=issued(300)) for one in facts.sentinels]
    facts = replace(facts, nodes=tuple(nodes), sentinels=tuple(sentinels))
    return trusting(authority(900))(facts)


def trusting(*authorities: Certificate, **fields: object) -> Change:
    return client(secure=True, authorities=authorities, authorities_file="/etc/ca.crt", **fields)


def later(place: int, **counters: str) -> Change:
    """What a node says of its counters at the second look."""

    def change(facts: Facts) -> Facts:
        return node(place, later={**facts.nodes[place].later, **counters})(facts)

    return change


def only_two_sentinels(facts: Facts) -> Facts:
    facts = replace(facts, sentinels=facts.sentinels[:2])
    return all_of(*(group(place, sentinels=facts.sentinels[place].groups[0].sentinels[:1]) for place in (0, 1)))(
        facts
    )


def on_one_loopback(facts: Facts) -> Facts:
    return replace(facts, resolved=dict.fromkeys(HOSTS, ("127.0.0.1",)))


def moved(place: int, to: int) -> Change:
    """A sentinel as the others know it, on the host of another."""
    others = [one for one in range(3) if one != place]
    return all_of(*(entry(o, "sentinels", place - (place > o), {"ip": HOSTS[to]}) for o in others))


def without_replicas(facts: Facts) -> Facts:
    return all_of(*(group(place, replicas=()) for place in range(3)))(replace(facts, nodes=facts.nodes[:1]))


def no_hosts(facts: Facts) -> Facts:
    return replace(facts, hosts=())


def ahead(seconds: float) -> Change:
    return node(1, clock=Clock(NOW + seconds, NOW, NOW + 0.02))


def two_groups(facts: Facts) -> Facts:
    own = facts.sentinels[0].groups[0]
    return sentinel(0, groups=(own, Group("other", {**own.master, "name": "other"})))(facts)


def everyone(change: Callable[[int], Change]) -> Change:
    return all_of(*(change(place) for place in range(3)))


def blind(command: str) -> Change:
    """A command that the first sentinel refuses."""
    return sentinel(0, hidden={command: f"{command}: NOPERM"})


def redis(place: int, version: str, **fields: object) -> Change:
    """A node that is Redis of this version, with an append-only file; fields of it."""
    return all_of(info(place, redis_version=version, valkey_version=None), node(place, **fields))


def valkey(place: int, version: str, **fields: object) -> Change:
    """A node that is Valkey of this version."""
    return all_of(info(place, valkey_version=version), node(place, **fields))


NOTHING = tuple(QUESTIONS)
NO_DRYRUN = {"left_out": None, "hidden": {"ACL DRYRUN": "ACL DRYRUN: NOPERM"}}
RIGHTS = "ACL SETUSER default reset allkeys allchannels +@all\n"
DENIED = {"FAILOVER ABORT": "User sentinel has no permissions to run the 'failover' command"}

#: (check, what is changed, a part of what is said, a part of what mends it).
FOUND: list[tuple[str, Change, str, str]] = [
    ("three-sentinels", only_two_sentinels, "2 sentinels: 10.0.0.1:26379, 10.0.0.2:26379", "start 1 more"),
    (
        "three-sentinels",
        group(1, sentinels=()),
        "10.0.0.2:26379 does not know 10.0.0.1:26379 and 10.0.0.3:26379",
        "look again in 5 s",
    ),
    ("sentinel-hosts", moved(1, 0), "2 of 3 sentinels are on 10.0.0.1", "move one of the sentinels"),
    ("ckquorum", group(1, ckquorum="NOQUORUM 1 usable Sentinels. Not enough"), "1 usable Sentinels", "CKQUORUM"),
    (
        "electable",
        sentinel(1, epoch=2**63 - 1),
        "10.0.0.2:26379: its epoch is 9223372036854775807",
        "runbook.md#epochs",
    ),
    (
        "electable",
        all_of(*(group(place, {"config-epoch": "-9223372036854775808"}) for place in range(3))),
        "its configuration epoch is 9223372036854775808",
        "sentinel current-epoch",
    ),
    (
        "strain",
        later(1, evicted_keys="425", keyspace_hits="1010", keyspace_misses="190"),
        "10.0.0.2:6379: it evicts 420 keys a second, and finds 10% of what is asked",
        "-h 10.0.0.2 -p 6379 CONFIG SET maxmemory 4096mb",
    ),
    ("strain", later(0, evicted_keys="8"), "it evicts 3 keys a second", "CONFIG SET maxmemory"),
    ("strain", later(0, errorstat_OOM="count=50"), "refused 50 commands a second", "CONFIG SET maxmemory"),
    ("strain", later(0, used_memory_overhead="1000000000"), "leaves 70.3 MB for entries", "maxmemory 4096mb"),
    ("strain", later(0, rejected_connections="9"), "rejects 9 connections a second", "maxclients"),
    ("strain", node(1, answered_in=0.4), "10.0.0.2:6379 answers after 0.40 s", "SLOWLOG GET"),
    ("ckquorum", sentinel(1, groups=()), "does not know 'shop'", f"SENTINEL MONITOR {NAME} 10.0.0.1 6379"),
    ("quorum", group(0, {"quorum": "1"}), "quorum 1 of 3", f"SENTINEL SET {NAME} quorum 2"),
    ("quorum", group(0, {"quorum": "3"}), "quorum 3 of 3", f"SENTINEL SET {NAME} quorum 2"),
    (
        "own-myid",
        sentinel(2, myid="id1"),
        "10.0.0.2:26379 and 10.0.0.3:26379 have the same id",
        "sed -i '/^sentinel myid /d'",
    ),
    (
        "same-master",
        group(2, {"ip": HOSTS[1]}),
        "names 10.0.0.2:6379 at epoch 7",
        "SENTINEL MONITOR shop 10.0.0.1 6379 2",
    ),
    ("same-master", group(2, {"config-epoch": "5"}), "at epoch 5, the others at 7", "SENTINEL REMOVE shop"),
    (
        "dead-remembered",
        all_of(entry(0, "replicas", 1, {"flags": "slave,s_down"}), node(2, **GONE)),
        "replica 10.0.0.3:6379 is down, and remembered by 1 sentinel",
        "SENTINEL RESET shop",
    ),
    ("groups-apart", two_groups, "10.0.0.1:6379 is in the groups other and shop", "SENTINEL REMOVE other"),
    (
        "promotion-time",
        group(1, {"down-after-milliseconds": "60000"}),
        "10.0.0.2:26379 notices a dead master after 60 s",
        "down-after-milliseconds 5000",
    ),
    ("reboot-period", process(1, 1, directives=()), "sets no primary-reboot-down-after-period", "period 10000"),
    (
        "one-master",
        node(2, role="master"),
        "10.0.0.3:6379 says that it is master, beside 10.0.0.1",
        "REPLICAOF 10.0.0.1",
    ),
    ("one-master", node(0, role="slave"), "every node says that it is a replica", "REPLICAOF NO ONE"),
    (
        "one-master",
        all_of(node(0, **GONE), everyone(lambda place: group(place, {"flags": "master,s_down"}))),
        "no node that answers is master; down: 10.0.0.1:6379",
        "start it",
    ),
    (
        "named-master",
        node(0, role="slave"),
        "is named as master, and says that it is a replica",
        "REPLICAOF NO ONE",
    ),
    (
        "named-master",
        all_of(node(0, **GONE), group(1, {"flags": "master,s_down"})),
        "is down (it does not answer), and still named",
        "SENTINEL CKQUORUM shop",
    ),
    ("reachable", node(1, **GONE), "10.0.0.2:6379, named by 10.0.0.1:26379: it does not", "replica-announce-ip"),
    ("reachable", node(1, error="WRONGPASS invalid"), "WRONGPASS", "the right user name and password in the URL"),
    ("reachable", node(1, error="NOPERM User x"), "NOPERM", "what the user in the URL may do"),
    ("reachable", node(1, error="LOADING Valkey"), "LOADING", "wait until 10.0.0.2:6379 has loaded"),
    ("reachable", info(1, run_id="another"), "is not the server that 10.0.0.1:26379 means", "replica-announce-ip"),
    (
        "reachable",
        lambda facts: replace(
            facts,
            named=(*facts.named, Address("10.0.0.9", 26379)),
            sentinels=(*facts.sentinels, replace(facts.sentinels[0], address=Address("10.0.0.9", 26379), **GONE)),
        ),
        "10.0.0.9:26379, named by the URL",
        "right address in the URL",
    ),
    (
        "names-mixed",
        all_of(
            info(2, master_host="cache-1.example"),
            lambda facts: replace(facts, resolved={**facts.resolved, "cache-1.example": (HOSTS[0],)}),
        ),
        "cache-1.example (followed by 10.0.0.3:6379)",
        "cache-1.example → 10.0.0.1",
    ),
    (
        "replicas-follow",
        info(1, master_host=HOSTS[2]),
        "follows 10.0.0.3:6379, not 10.0.0.1",
        "REPLICAOF 10.0.0.1 6379",
    ),
    (
        "replicas-follow",
        info(1, master_link_status="down", master_link_down_since_seconds="42"),
        "its link to 10.0.0.1:6379 is down for 42 s",
        "INFO replication",
    ),
    (
        "replicas-follow",
        info(1, master_last_io_seconds_ago="60"),
        "received nothing from its master for 60 s",
        "see its log",
    ),
    ("replicas-follow", info(0, master_repl_offset="999000000"), "behind its master", "INFO replication"),
    ("backlog", info(2, repl_backlog_size="16384"), "repl-backlog-size 16 KB", "repl-backlog-size 2mb"),
    ("backlog", info(0, instantaneous_output_repl_kbps="9000"), "holds 15 s at 4 MB/s", "repl-backlog-size 512mb"),
    (
        "backlog",
        config(1, {"client-output-buffer-limit": "slave 1048576 524288 1"}),
        "cut at 1 MB",
        '"replica 256mb 64mb 60"',
    ),
    ("promotable", everyone(lambda place: info(place, slave_priority="0")), "priority 0", "replica-priority 100"),
    ("promotable", config(0, {"min-replicas-to-write": "2"}), "with 2 replicas", "min-replicas-to-write 1"),
    ("promotable", without_replicas, "has no replica", "replicaof 10.0.0.1 6379"),
    (
        "persistence",
        all_of(info(1, aof_enabled="0"), config(1, {"appendonly": "no", "save": '""'})),
        "no save points; supervisor restarts it",
        "CONFIG SET appendonly yes",
    ),
    (
        "persistence",
        redis(1, "7.0.15", left_out=NOTHING, as_default=0),
        "10.0.0.2:6379 (Redis 7.0.15) reads its append-only file as the default user, who may not write at all: ",
        f"valkey-cli -h 10.0.0.2 -p 6379 {RIGHTS}valkey-cli -h 10.0.0.2 -p 6379 CONFIG REWRITE",
    ),
    (
        "persistence",
        redis(0, "8.4.6", left_out=(KEYS, "select"), as_default=2),
        "who may not write every key, nor use `select`: a restart",
        f"another user first\nvalkey-cli -h 10.0.0.1 -p 6379 {RIGHTS}",
    ),
    (
        "persistence",
        all_of(valkey(2, "8.0.1", left_out=NOTHING[:6], as_default=0), config(2, {"aclfile": "/etc/users.acl"})),
        "(Valkey 8.0.1) reads its append-only file as the default user, who may not use `decr`, `del`, "
        "`function|flush`, `getdel`, 2 more: ",
        f"valkey-cli -h 10.0.0.3 -p 6379 {RIGHTS}valkey-cli -h 10.0.0.3 -p 6379 ACL SAVE",
    ),
    (
        "persistence",
        all_of(redis(1, "7.2.14", left_out=(KEYS,)), node(1, **NO_CONFIG)),
        "(Redis 7.2.14) reads its append-only file as the default user, who may not write every key: ",
        "ACL SAVE\nvalkey-cli -h 10.0.0.2 -p 6379 CONFIG REWRITE",
    ),
    (
        "persistence",
        redis(1, "7.0.15", left_out=NOTHING, as_default=0, open=True),
        "(Redis 7.0.15)",
        "give clients that log in as default",
    ),
    ("saves-and-clocks", info(0, rdb_last_bgsave_status="err"), "save of a snapshot failed", "/var/lib/valkey"),
    (
        "saves-and-clocks",
        info(0, aof_last_write_status="err"),
        "last write to the append-only",
        "make room on the disk",
    ),
    (
        "saves-and-clocks",
        sentinel(1, info={"sentinel_tilt": "1", "sentinel_tilt_since_seconds": "7"}),
        "in TILT for 7 s",
        "30 quiet seconds",
    ),
    ("saves-and-clocks", group(1, {"parallel-syncs": "2"}), "parallel-syncs 2 with 2", "parallel-syncs 1"),
    ("saves-and-clocks", ahead(30.0), "10.0.0.2:6379 is 30.0 s before that of", "a time service"),
    ("restart-delay", program(0, restart_delay=0.0), "supervisor restarts it after 0 s, the", "sleep 7; exec"),
    (
        "restart-delay",
        program(0, kind="systemd", name="valkey.service", restart_delay=0.1),
        "systemd restarts it after 0.1 s",
        "RestartSec=7",
    ),
    (
        "stop-timeout",
        all_of(program(0, stop_timeout=10.0), info(0, used_memory="4000000000")),
        "killed 10 s after the request to stop; to save 3.7 GB takes about 20 s",
        "stopwaitsecs=60",
    ),
    ("stop-timeout", program(0, stop_signal="KILL"), "stops it by SIGKILL", "stopsignal=TERM"),
    ("foreground", config(1, {"daemonize": "yes"}), "daemonize yes", "daemonize no in /etc/valkey/valkey.conf"),
    (
        "ckquorum",
        everyone(lambda place: sentinel(place, groups=(Group("other", {"name": "other"}),))),
        "10.0.0.1:26379 does not know 'shop'; it watches other",
        "URL; or have it watch shop\nvalkey-cli -h 10.0.0.1 -p 26379 SENTINEL MONITOR shop <host>",
    ),
    ("foreground", process(1, 1, daemonized=True), "10.0.0.2:26379: daemonize yes", "/etc/valkey/sentinel.conf"),
    ("config-writable", info(1, config_file=""), "runs without a configuration file", "a file of its own"),
    (
        "config-writable",
        process(1, 1, unwritable="/etc/valkey is read-only"),
        "is read-only",
        "SENTINEL FLUSHCONFIG",
    ),
    ("passwords", config(0, {"masterauth": ""}), "10.0.0.1:6379 has no masterauth", "CONFIG SET masterauth"),
    ("passwords", node(2, open=True), "10.0.0.3:6379 asks for no password", "CONFIG SET requirepass"),
    (
        "passwords",
        entry(1, "replicas", 0, {"last-ok-ping-reply": "90000", "last-ping-reply": "300"}),
        "node 10.0.0.2:6379 refuses 10.0.0.2:26379: errors for 90 s",
        "SENTINEL SET shop auth-pass",
    ),
    (
        "passwords",
        entry(1, "sentinels", 0, {"last-ok-ping-reply": "90000", "last-ping-reply": "300"}),
        "sentinel 10.0.0.1:26379 refuses",
        "sentinel-pass",
    ),
    (
        "sentinel-acl",
        node(1, sentinel_users={"sen": DENIED}),
        "the user sen of the sentinels may",
        "SETUSER sen +failover",
    ),
    ("open-door", node(1, open=True), "answers from here without a password", "CONFIG SET requirepass"),
    ("open-door", sentinel(1, open=True), "10.0.0.2:26379 answers", "requirepass in its file"),
    (
        "open-door",
        all_of(on_one_loopback, node(1, open=True), config(1, {"bind": "* -::*", "protected-mode": "no"})),
        "and listens on * -::*",
        "bind 127.0.0.1",
    ),
    (
        "certificates",
        all_of(secure, node(1, certificate=issued(20))),
        "10.0.0.2:6379: its certificate (/etc/evercache/tls/tls.crt) ends on 2026-10-11",
        "-h 10.0.0.2 -p 6379 CONFIG SET tls-cert-file /etc/evercache/tls/tls.crt",
    ),
    (
        "certificates",
        all_of(secure, sentinel(1, certificate=issued(6))),
        "10.0.0.2:26379: its certificate ends on 2026-09-27 14:13 UTC, in 6 days",
        "tls-key-file, then restart this sentinel, and no two at once",
    ),
    (
        "certificates",
        all_of(
            secure,
            sentinel(1, certificate=issued(6)),
            process(1, 1, directives=(("tls-cert-file", "/etc/tls/sentinel.crt"),)),
        ),
        "its certificate (/etc/tls/sentinel.crt) ends",
        "put a new one for 10.0.0.2 into /etc/tls/sentinel.crt and the file of its key, then restart",
    ),
    (
        "certificates",
        all_of(
            secure,
            node(1, certificate=issued(6)),
            info(1, config_file="/var/lib/evercache/node/valkey.conf"),
            config(1, {"aclfile": "/etc/evercache/users.acl"}),
        ),
        "ends on",
        "put a new one for 10.0.0.2 into `tls` beside its reload.sh, then run reload.sh",
    ),
    (
        "certificates",
        all_of(
            secure,
            sentinel(1, certificate=issued(6), info={"config_file": "/var/lib/evercache/sentinel/sentinel.conf"}),
        ),
        "ends on",
        "then run reload.sh, and restart this sentinel, and no two at once",
    ),
    ("certificates", all_of(secure, node(1, certificate=issued(-2), **GONE)), "ended on 2026-09-19", "CONFIG SET"),
    ("certificates", all_of(secure, node(1, certificate=issued(90, since=0.5))), "begins on", "CONFIG SET"),
    (
        "certificates",
        all_of(secure, node(1, certificate=issued(90, fits=False))),
        "is for 10.0.0.9, not for 10.0.0.2",
        "put a new one for 10.0.0.2",
    ),
    (
        "certificates",
        all_of(secure, client(certificate=issued(3), certificate_file="/etc/client.crt")),
        "the client's certificate (/etc/client.crt) ends",
        "read for the next connection",
    ),
    (
        "certificates",
        all_of(secure, trusting(authority(20), authority(-5, "commonName=used by nobody"))),
        "the authority commonName=an authority (/etc/ca.crt) ends",
        "beside the old",
    ),
    (
        "certificates",
        all_of(secure, trusting(authority(900, issuer="commonName=root"), authority(20, "commonName=root", "x"))),
        "the authority commonName=root (/etc/ca.crt) ends",
        "beside the old",
    ),
    (
        "versions",
        info(0, valkey_version="9.2.0"),
        "10.0.0.2:6379 (valkey 9.1) is older than its master (valkey 9.2)",
        "upgrade 10.0.0.2:6379",
    ),
    (
        "saves-and-clocks",
        info(1, rdb_last_save_time=str(int(NOW) - 3 * 3600), rdb_changes_since_last_save="2"),
        "its last snapshot is 3.0 h old, though 2 changes ask for one after 3600 s",
        "-h 10.0.0.2 -p 6379 BGSAVE",
    ),
    ("maxmemory", info(1, maxmemory_policy="volatile-ttl"), "its master has volatile-lru", "policy volatile-lru"),
    ("maxmemory", info(0, maxmemory="0"), "has no maxmemory", "CONFIG SET maxmemory 1073741824"),
    ("maxmemory", everyone(lambda p: info(p, maxmemory="0")), "has no maxmemory", "CONFIG SET maxmemory 2048mb"),
    ("maxmemory", info(0, maxmemory_policy="noeviction"), "refuses writes", "maxmemory-policy volatile-lru"),
    ("maxmemory", info(0, maxmemory_policy="allkeys-lru"), "may evict marks", "maxmemory-policy volatile-lru"),
    (
        "maxmemory",
        info(1, maxmemory="536870912"),
        "maxmemory 512 MB, its master has 1.0 GB",
        "maxmemory 1073741824",
    ),
    (
        "maxmemory",
        info(1, total_system_memory="1200000000"),
        "leaves no room for a save",
        "valkey-cli -h 10.0.0.2 -p 6379 CONFIG SET maxmemory 801mb",
    ),
    ("kernel", host(1, overcommit="0"), "host1: vm.overcommit_memory is 0", "sysctl vm.overcommit_memory=1"),
    ("kernel", host(1, huge_pages="always"), "huge pages", "echo never"),
    ("kernel", host(1, swap_bytes=2 << 30), "2048 MB of swap", "swapoff -a"),
    ("timeouts", client(answer_timeout=None), "no time-out for an answer", "socket_timeout=1"),
    ("timeouts", client(connect_timeout=5.0), "5 s for a connection", "connect_timeout=0.2"),
]

HIDDEN = {"hidden": {"CLIENT LIST": "CLIENT LIST: NOPERM"}, "sentinel_users": {}}
NOT_ASKED = {"open": None, "hidden": {"open": "a connection without a password: timed out"}}

#: (check, what is changed, why it says that nothing can be seen, whether a shell on the host would show it).
UNSEEN: list[tuple[str, Change, str, bool]] = [
    ("three-sentinels", lambda f: replace(f, sentinels=()), "no sentinel answers", False),
    ("sentinel-hosts", lambda f: replace(f, sentinels=()), "no sentinel answers", False),
    ("quorum", lambda f: replace(f, sentinels=()), "no sentinel answers", False),
    ("names-mixed", lambda f: replace(f, sentinels=()), "no sentinel answers", False),
    ("dead-remembered", lambda f: replace(f, sentinels=()), "no sentinel answers", False),
    ("ckquorum", sentinel(1, **GONE), "10.0.0.2:26379: it does not answer", False),
    ("strain", node(1, later_after=0.0), "it was asked once only", False),
    ("electable", sentinel(1, epoch=None, hidden={"epoch": "its greetings: denied"}), "greetings: denied", False),
    ("ckquorum", group(1, ckquorum="NOPERM no permission"), "NOPERM", False),
    ("own-myid", sentinel(1, myid="", hidden={"SENTINEL MYID": "NOPERM"}), "NOPERM", False),
    ("same-master", group(2, {"ip": HOSTS[1], "flags": "failover_in_progress"}), "failover is under way", False),
    ("groups-apart", sentinel(1, hidden={"SENTINEL MASTERS": "NOPERM"}), "NOPERM", False),
    ("reboot-period", no_hosts, "in its file only", True),
    ("promotion-time", lambda f: replace(f, sentinels=()), "no sentinel answers", False),
    ("one-master", lambda f: replace(f, nodes=()), "no server is known", False),
    ("one-master", node(0, error="WRONGPASS invalid"), "WRONGPASS", False),
    ("one-master", node(2, **GONE), "10.0.0.3:6379: it does not answer", False),
    ("replicas-follow", node(2, **GONE), "10.0.0.3:6379: it does not answer", False),
    ("named-master", node(0, **GONE), "it does not answer", False),
    ("backlog", node(1, **NO_CONFIG), "NOPERM", False),
    ("backlog", info(1, repl_backlog_size=None), "no repl_backlog_size", False),
    ("promotable", node(1, **NO_CONFIG), "NOPERM", False),
    ("persistence", all_of(info(1, aof_enabled="0"), node(1, **NO_CONFIG)), "NOPERM", False),
    ("persistence", redis(1, "7.0.15", **NO_DRYRUN), "10.0.0.2:6379: ACL DRYRUN: NOPERM", False),
    ("persistence", valkey(1, "9.0.3", **NO_DRYRUN), "10.0.0.2:6379: ACL DRYRUN: NOPERM", False),
    ("persistence", redis(1, "7.0.15", left_out=None), "what its default user may do was not asked", False),
    ("persistence", node(1, info={}, hidden={"INFO": "INFO: NOPERM"}), "10.0.0.2:6379: INFO: NOPERM", False),
    ("saves-and-clocks", info(1, rdb_last_bgsave_status=None), "nothing of persistence", False),
    ("restart-delay", no_hosts, "seen on its host only", True),
    ("restart-delay", process(0, 0, hidden={"program": "its parent is runsv"}), "its parent is runsv", True),
    ("stop-timeout", node(1, **NO_CONFIG), "NOPERM", False),
    ("stop-timeout", no_hosts, "seen on its host only", True),
    ("foreground", no_hosts, "a sentinel does not show daemonize", True),
    ("foreground", process(1, 1, hidden={"config_file": "run it as root"}), "does not show daemonize", True),
    ("three-sentinels", all_of(group(0, sentinels=()), blind("SENTINEL SENTINELS")), "NOPERM", False),
    ("ckquorum", all_of(sentinel(0, groups=()), blind("SENTINEL MASTERS")), "NOPERM", False),
    ("promotable", all_of(group(0, replicas=()), blind("SENTINEL REPLICAS")), "NOPERM", False),
    ("config-writable", no_hosts, "seen on its host only", True),
    ("config-writable", process(0, 0, hidden={"config_file": "run it as root"}), "run it as root", True),
    ("passwords", node(1, **NO_CONFIG), "masterauth: CONFIG: NOPERM", False),
    ("passwords", node(1, **NOT_ASKED), "timed out", False),
    ("sentinel-acl", node(1, **HIDDEN), "CLIENT LIST: NOPERM", False),
    ("sentinel-acl", node(1, sentinel_users={}), "no sentinel is connected", False),
    ("open-door", node(1, **NOT_ASKED), "timed out", False),
    (
        "certificates",
        all_of(secure, node(1, certificate=None, hidden={"certificate": "its certificate: timed out"})),
        "10.0.0.2:6379: its certificate: timed out",
        False,
    ),
    ("libraries", node(1, **HIDDEN), "CLIENT LIST: NOPERM", False),
    ("versions", info(1, valkey_version=None, redis_version=None), "INFO shows no version", False),
    ("maxmemory", info(1, maxmemory=None), "no maxmemory", False),
    ("kernel", no_hosts, "the kernel of 10.0.0.1", True),
    ("kernel", host(1, hidden={"swap": "/proc/meminfo: no"}), "/proc/meminfo", True),
]  # fmt: skip

#: (check, what is changed): it looks odd, and is right.
FINE: list[tuple[str, Change]] = [
    ("sentinel-hosts", on_one_loopback),
    ("quorum", only_two_sentinels),
    ("dead-remembered", entry(0, "replicas", 1, {"flags": "slave,disconnected"})),
    ("reachable", all_of(node(2, **GONE), entry(0, "replicas", 1, {"flags": "slave,s_down"}))),
    ("reachable", all_of(info(1, run_id="restarted", uptime_in_seconds="3"))),
    ("persistence", all_of(info(1, aof_enabled="0"), config(1, {"appendonly": "no"}))),
    (
        "persistence",
        all_of(
            info(1, aof_enabled="0"), config(1, {"appendonly": "no", "save": ""}), program(1, autorestart=False)
        ),
    ),
    ("persistence", redis(1, "7.0.15", left_out=())),
    ("persistence", redis(1, "6.2.14", **NO_DRYRUN)),
    ("persistence", redis(1, "8.6.0", left_out=NOTHING)),
    ("persistence", valkey(1, "9.1.2", left_out=NOTHING)),
    (
        "persistence",
        all_of(redis(1, "7.0.15", left_out=NOTHING), info(1, aof_enabled="0"), config(1, {"appendonly": "no"})),
    ),
    ("saves-and-clocks", node(1, clock=Clock(NOW + 0.9, NOW, NOW + 0.02))),
    ("saves-and-clocks", info(1, rdb_last_save_time=str(int(NOW) - 7000), rdb_changes_since_last_save="2")),
    ("saves-and-clocks", info(1, rdb_last_save_time="1", rdb_changes_since_last_save="0")),
    ("saves-and-clocks", node(1, clock=Clock(NOW + 4.0, NOW, NOW + 4.5))),
    ("restart-delay", program(0, restart_delay=0.0, autorestart=False)),
    ("stop-timeout", all_of(no_hosts, everyone(lambda place: config(place, {"save": ""})))),
    ("foreground", all_of(no_hosts, client(kind="replicated"), lambda facts: replace(facts, sentinels=()))),
    ("passwords", everyone(lambda place: all_of(node(place, open=True), config(place, {"masterauth": ""})))),
    ("passwords", entry(1, "replicas", 0, {"last-ok-ping-reply": "90000", "last-ping-reply": "90000"})),
    ("open-door", all_of(on_one_loopback, node(1, open=True))),
    ("certificates", secure),
    ("certificates", all_of(secure, trusting(authority(-1), authority(900)))),
    ("certificates", all_of(secure, trusting(authority(900), authority(-1, "commonName=used by nobody")))),
    ("certificates", all_of(secure, node(1, certificate=issued(31)))),
    ("versions", info(1, valkey_version="9.1.3")),
    ("libraries", everyone(lambda place: node(place, libraries={"1.0": 3}))),
    ("foreground", all_of(config(1, {"daemonize": "yes"}), program(1, kind="systemd"))),
    ("kernel", lambda facts: replace(facts, hosts=(*facts.hosts, HostFacts("laptop", overcommit="0")))),
    ("kernel", host(1, huge_pages="madvise")),
    ("reboot-period", all_of(no_hosts, everyone(lambda p: sentinel(p, info={"redis_version": "6.2.14"})))),
    ("backlog", lambda facts: replace(facts, nodes=facts.nodes[:1])),
]


def test_a_sound_deployment_is_fine_in_every_check() -> None:
    results = examine(sound())
    assert {one.check.name: one.findings for one in results if one.state != "fine"} == {}
    assert verdict(sound(), results) == ("sound", "")


@pytest.mark.parametrize(("name", "change", "seen", "mend"), FOUND)
def test_it_fires(name: str, change: Change, seen: str, mend: str) -> None:
    result = result_of(name, change(sound()))
    assert result.state == "found", result
    found = [one for one in result.findings if one.state == "found"]
    assert any(seen in one.seen and mend in one.mend for one in found), found
    assert result.severity in (Severity.warning, Severity.critical)


#: (check, what is changed, what it must say): no alarm.
NOTED: list[tuple[str, Change, str]] = [
    ("versions", info(1, valkey_version="9.2.0"), "the nodes run valkey 9.1 and valkey 9.2"),
    ("libraries", node(1, libraries={"1.0": 3, "1.1": 2}), "1.0 (3 connections), 1.1 (2 connections)"),
]


@pytest.mark.parametrize(("name", "change", "seen"), NOTED)
def test_a_rollout_is_no_alarm(name: str, change: Change, seen: str) -> None:
    result = result_of(name, change(sound()))
    assert result.severity is Severity.note
    assert any(seen in one.seen for one in result.findings)


@pytest.mark.parametrize(("days", "severity"), [(7.1, Severity.warning), (7.0, Severity.critical)])
def test_a_certificate_is_critical_a_week_before_its_end(days: float, severity: Severity) -> None:
    facts = all_of(secure, sentinel(1, certificate=issued(days)))(sound())
    assert result_of("certificates", facts).severity is severity


def test_what_follows_from_a_certificate_is_mended_there() -> None:
    """A node that is not accepted looks dead to every other check."""
    ended = all_of(secure, node(1, certificate=issued(-2), **GONE))
    reached = [one for one in result_of("reachable", ended(sound())).findings if one.state == "found"]
    assert reached
    assert all(one.cause == "certificates" for one in reached)
    dead = all_of(secure, node(1, certificate=issued(90), **GONE))
    assert all(not one.cause for one in result_of("reachable", dead(sound())).findings)


@pytest.mark.parametrize(("name", "change", "why", "shell"), UNSEEN)
def test_it_says_what_it_cannot_see(name: str, change: Change, why: str, shell: bool) -> None:
    result = result_of(name, change(sound()))
    assert result.state == "cannot see", result
    assert result.severity is None
    hidden = [one for one in result.findings if one.state == "cannot see"]
    assert any(why in one.seen and one.host is shell for one in hidden), hidden


@pytest.mark.parametrize(("name", "change"), FINE)
def test_it_does_not_fire(name: str, change: Change) -> None:
    result = result_of(name, change(sound()))
    assert result.state == "fine", result


def test_only_a_plain_answer_about_the_default_user_counts() -> None:
    sound = ["OK"] * len(QUESTIONS)
    no_right, no_key = (
        "This user has no permissions to run the 'del' command",
        "User x has no permissions to access the '1' key",
    )
    names = list(QUESTIONS)
    assert left_out(sound) == ()
    assert left_out([sound[0], no_right, *sound[2:]]) == (names[1],)
    assert left_out([no_key, no_key, no_right, *sound[3:]]) == (KEYS, names[2])
    assert left_out(["ERR Command 'decr' not found", *sound[1:]]) == ()  # renamed
    for odd in ("", "ERR unknown command 'ACL'", "NOAUTH Authentication required."):
        assert left_out([odd, *sound[1:]]) is None


def test_every_check_is_seen_to_fire_and_to_be_blind() -> None:
    names = {one.name for one in registered()}
    assert len(registered()) == len(names) == 34
    assert {name for name, *_ in FOUND} | {name for name, *_ in NOTED} == names
    # The client's own settings are always known, and whom we reach.
    assert names - {name for name, *_ in UNSEEN} == {"timeouts", "reachable"}


def test_what_is_registered_reads_well() -> None:
    for one in registered():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", one.name)
        assert one.why.endswith(".")
        assert one.title[0].islower()
        assert one.mend
        assert "\n" not in one.why + one.mend + one.title


def test_without_sentinels_their_checks_have_nothing_to_do() -> None:
    facts = client(kind="replicated", service=None)(replace(sound(), sentinels=()))
    results = examine(facts)
    assert {one.check.name for one in results if one.state == "found"} == set()
    assert all(one.state == "fine" for one in results if one.check.sentinel)


def test_nothing_at_all_is_never_fine() -> None:
    """Nobody answers: no check that looks at servers finds them well."""
    facts = sound()
    silent = replace(
        facts,
        hosts=(),
        sentinels=tuple(replace(one, error="silent", groups=(), info={}) for one in facts.sentinels),
        nodes=tuple(replace(one, error="silent", role="", info={}, config={}) for one in facts.nodes),
    )
    assert not silent.up_servers
    assert {r.check.name for r in examine(silent) if r.state == "fine"} == {"timeouts"}


def test_one_process_under_two_addresses_is_one() -> None:
    facts = sound()
    again = replace(facts.sentinels[0], address=Address("cache.example", 26379))
    other = replace(facts.nodes[0], address=Address("cache.example", 6379))
    doubled = replace(facts, sentinels=(*facts.sentinels, again), nodes=(*facts.nodes, other))
    assert verdict(doubled, examine(doubled)) == ("sound", "")
    assert len(doubled.known_sentinels) == 3
