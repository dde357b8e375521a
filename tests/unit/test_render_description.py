"""What a description may say: names and forms, the schema, and what is refused because it cannot work."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.unit.descriptions import PASSWORDS, changed, described, three

from evercache.errors import DescriptionError
from evercache.ops import deploy
from evercache.ops.deploy.reading import size, size_text
from evercache.ops.deploy.sound import objections, objections_to_passwords

SCHEMA = json.loads(deploy.schema_text())


def fits(values: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(values))


def test_the_example_is_sound_for_machines_and_fits_the_schema() -> None:
    values = tomllib.loads(deploy.example_text())
    assert fits(values)
    for variant in ("supervisor", "systemd", "compose"):
        assert list(objections(deploy.parse(values), variant)) == []


def test_what_is_left_out_has_sound_values() -> None:
    it = described()
    assert it.quorum == 2
    assert it.min_replicas == 1
    assert it.restart_delay > it.sentinel.down_after_ms / 1000
    assert it.backlog == 128 << 20
    assert it.persistence.mode == "aof"
    assert it.server.program == "/usr/bin/valkey-server"
    assert it.namespace == "shop"
    assert it.stop_timeout >= 60
    assert len({host.ident("shop") for host in it.hosts}) == 3
    assert list(objections(it)) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (three(colour="red"), "colour is not known"),
        (three(server={"memroy": "1gb"}), r"server\.memroy is not known \(did you mean memory"),
        (three(server={"memory": "2 gigabytes"}), r"server\.memory is no size"),
        (three(server={"memory": 5}), r"server\.memory is no size"),
        (three(server="valkey"), r"server is no table: write \[server\]"),
        (three(hosts={"name": "x"}), r"hosts is no list: write \[\[hosts\]\]"),
        (three(hosts=["cache-1"]), r"hosts\[1\] is no table"),
        (three(hosts=[{"name": "cache-1"}]), r"hosts\[1\]\.address is missing"),
        (three(hosts=[{"name": "Cache 1", "address": "10.0.0.1"}]), r"hosts\[1\]\.name is 'Cache 1'"),
        (three(ports={"node": 70000}), "from 1 to 65535"),
        (three(ports={"node": True}), "ports.node is a bool: write a whole number"),
        (three(tls={"enabled": "yes"}), "tls.enabled is a str: write true or false"),
        (three(persistence={"mode": "none"}), "wipes its replicas"),
        (three(server={"kind": "memcached"}), "write valkey or redis"),
        (three(server={"eviction": "allkeys-lru"}), "volatile-lru or"),
        (three(paths={"data": "data"}), "no absolute path"),
        (three(passwords={"sentinel": "env:"}), r"passwords\.sentinel is no reference"),
    ],
)
def test_what_cannot_be_understood(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DescriptionError, match=words):
        deploy.parse(values)
    assert not fits(values)


@pytest.mark.parametrize(
    "values",
    [
        three(server={"version": "9.0", "kind": "redis", "binary": "/opt/{host}/server"}),
        three(application={"keys": ["rq:*"], "commands": ["+@list", "+publish"], "networks": ["10.0.1.0/24"]}),
        three(sentinel={"quorum": 3, "restart_delay_ms": 9000}, replication={"backlog": "1mb", "max_lag": 5}),
        changed(three(), {"ram": "8gb", "bind": ["10.0.0.1", "127.0.0.1"], "priority": 0, "node": False}),
        three(kubernetes={"storage": "10Gi", "storage_class": "fast"}, containers={"image": "a/b:c", "uid": 1}),
    ],
)
def test_what_is_understood_fits_the_schema(values: dict[str, Any]) -> None:
    deploy.parse(values)
    assert fits(values)


def test_a_password_in_the_file_is_refused_and_not_repeated() -> None:
    values = three(passwords={"operator": "hunter2hunter2hunter2"})
    with pytest.raises(DescriptionError, match="does not belong in this file") as caught:
        deploy.parse(values)
    assert "hunter2" not in str(caught.value)
    assert not fits(values)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="cannot be read: No such file"):
        deploy.parse_file(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(DescriptionError, match="is no TOML"):
        deploy.parse_file(tmp_path / "bad.toml")


# -- what cannot work


def hosts(*each: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": f"cache-{n}", "address": f"10.0.0.{n}", **one} for n, one in enumerate(each, 1)]


REFUSED: list[tuple[dict[str, Any], str]] = [
    (three(application={"commands": ["+publish"]}), 'application.channels = ["rq:*"]'),
    *(
        (
            three(application={"commands": ["+publish"], "channels": ["rq:*", pattern]}),
            "includes __sentinel__:hello",
        )
        for pattern in ("*", "__*", "[^a]*hello", "\\__sentinel__:hello")
    ),
    (three(application={"commands": ["+@all"]}), "+@all lets the application end servers"),
    (three(hosts=hosts({}, {})), "of two sentinels none has a majority when the other is lost"),
    (three(hosts=hosts({}, {"sentinel": False})), "one sentinel has no majority when it is lost itself"),
    (
        three(hosts=hosts({}, {"sentinel": False}), sentinel={"quorum": 2}),
        "a quorum of 2 with 1 sentinel is never reached",
    ),
    (three(sentinel={"quorum": 4}), "a quorum of 4 with 3 sentinels is never reached"),
    (three(sentinel={"quorum": 3}), "a quorum of 3 of 3 sentinels tolerates fewer losses"),
    (three(sentinel={"quorum": 1}), "with a quorum of 1, one sentinel"),
    (three(hosts=hosts({"sentinel": False}, {"sentinel": False})), "nobody would promote a replica"),
    (three(hosts=hosts({}, {"node": False}, {"node": False})), "there is no replica that they could promote"),
    (changed(three(), {"address": "cache-1.example"}), "a sentinel compares texts"),
    (changed(three(), {}, {"address": "10.0.0.1"}), "2 hosts have the address 10.0.0.1"),
    (changed(three(), {"address": "127.0.0.1"}), "means another machine on each host"),
    (changed(three(), {"address": "0.0.0.0"}), "no address of a host"),
    (changed(three(), *({"address": f"10.0.0.{n}00"} for n in (4, 5, 6))), "neither an address nor a name"),
    (changed(three(), {}, {"name": "cache-1"}), "two hosts are named cache-1"),
    (changed(three(), {"node": False, "sentinel": False}), "neither a data node nor a sentinel"),
    (three(ports={"node": 26379}), "the same port 26379"),
    (three(application={"namespace": "sentinel"}), "the name of another user"),
    (three(application={"networks": ["10.0.0.0/99"]}), "10.0.0.0/99 is no network"),
    (three(sentinel={"restart_delay_ms": 5000}), "comes before the sentinels notice"),
    (three(sentinel={"failover_timeout_ms": 6000}), "ends before its steps do"),
    (three(replication={"min_replicas_to_write": 2}), "the loss of one stops all writes"),
    (changed(three(), {}, {"priority": 0}, {"priority": 0}), "no replica may be promoted"),
    (three(replication={"backlog": "512kb"}), "would copy everything anew"),
    (three(server={"memory": "8mb"}), "bookkeeping alone need 16mb"),
    (three(server={"memory": "20mb"}), "takes more than half of server.memory"),
    (changed(three(), {"ram": "2gb"}), "a save or a first copy needs room"),
    (three(server={"version": "7.1"}), "valkey 7.1 is not supported: from 7.2 to 9"),
    (three(server={"kind": "redis", "version": "6.0"}), "redis 6.0 is not supported"),
    (three(server={"install": "wheel"}, tls={"enabled": True}), "built without TLS"),
    (three(server={"install": "wheel", "kind": "redis", "version": "7.4"}), "the wheel has Valkey"),
    (three(tls={"client_certificates": True}), "needs tls.enabled"),
    (three(paths={"config": "/srv/cache/etc", "data": "/srv/cache"}), "must be apart"),
    (three(paths={"config": "/srv/cache", "data": "/srv/cache/data"}), "must be apart"),
    (three(paths={"data": "/srv/{node}"}), "braces other than"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_work_is_refused_with_the_reason(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DescriptionError, match="this cannot work") as caught:
        deploy.check(deploy.parse(values))
    assert words in str(caught.value)


def test_every_objection_is_told_at_once() -> None:
    values = three(hosts=hosts({}, {}), sentinel={"quorum": 3}, ports={"node": 26379})
    with pytest.raises(DescriptionError, match="for 3 reasons") as caught:
        deploy.check(deploy.parse(values))
    assert str(caught.value).count("\n- ") == 3


@pytest.mark.parametrize(
    ("variant", "values", "words"),
    [
        ("kubernetes", three(), "cache-1.default.svc.cluster.local"),
        ("systemd", three(server={"install": "wheel"}), "write server.binary"),
        ("compose", three(server={"install": "wheel"}), "runs images"),
        ("supervisor", three(paths={"data": "/srv/" + "d" * 80}), "too long for Supervisor's socket"),
    ],
)
def test_what_one_variant_cannot_do(variant: str, values: dict[str, Any], words: str) -> None:
    assert list(objections(deploy.parse(values))) == []
    with pytest.raises(DescriptionError, match=words):
        deploy.check(deploy.parse(values), variant)


@pytest.mark.parametrize(
    "values",
    [
        three(hosts=hosts({"sentinel": False})),
        three(hosts=hosts({}, {}, {"node": False})),
        three(hosts=hosts({}, {}, {}, {}, {})),
        changed(three(), *({"address": f"cache-{n}.example.net"} for n in (1, 2, 3))),
        changed(three(), *({"address": f"fd00::{n}"} for n in (1, 2, 3))),
        changed(three(), *({"address": f"127.0.0.{n}"} for n in (1, 2, 3))),
    ],
)
def test_what_can_work_is_not_refused(values: dict[str, Any]) -> None:
    assert list(objections(deploy.parse(values))) == []


def test_notes_say_what_works_but_is_less() -> None:
    assert any(
        "nothing takes its place" in note for note in deploy.notes(described(hosts=hosts({"sentinel": False})))
    )
    assert any("no more losses than 3" in note for note in deploy.notes(described(hosts=hosts({}, {}, {}, {}))))
    assert any("without TLS" in note for note in deploy.notes(described()))
    assert not list(deploy.notes(described(tls={"enabled": True})))


# -- passwords


def test_passwords_that_are_none() -> None:
    assert list(objections_to_passwords(PASSWORDS)) == []
    for password, words in (("short", "at least 16"), ("a b" * 6, "cannot hold"), ('"' * 16, "cannot hold")):
        (told,) = objections_to_passwords({**PASSWORDS, "operator": password})
        assert words in told
        assert password not in told
    (told,) = objections_to_passwords({**PASSWORDS, "operator": PASSWORDS["sentinel"]})
    assert "sentinel and operator have the same password" in told


def test_passwords_are_made_once_and_read(tmp_path: Path) -> None:
    it = described(passwords={role: f"file:p/{role}" for role in deploy.ROLES})
    with pytest.raises(DescriptionError, match="--generate-passwords") as caught:
        deploy.read_passwords(it, tmp_path)
    assert all(role in str(caught.value) for role in deploy.ROLES)
    made = deploy.generate_passwords(it, tmp_path)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    first = deploy.read_passwords(it, tmp_path)
    assert list(objections_to_passwords(first)) == []
    assert deploy.generate_passwords(it, tmp_path) == []
    assert deploy.read_passwords(it, tmp_path) == first
    made[0].chmod(0o644)
    with pytest.raises(DescriptionError, match="chmod 600"):
        deploy.read_passwords(it, tmp_path)


def test_further_passwords_are_accepted_and_not_used(tmp_path: Path) -> None:
    it = described(passwords={role: f"file:p/{role}" for role in deploy.ROLES})
    deploy.generate_passwords(it, tmp_path)
    path = tmp_path / "p" / "sentinel"
    first = path.read_text().strip()
    path.write_text(f"{first}\nthe-next-one-of-them\n")
    further = deploy.read_further_passwords(it, tmp_path)
    assert further == {role: ("the-next-one-of-them",) if role == "sentinel" else () for role in deploy.ROLES}
    passwords = deploy.read_passwords(it, tmp_path)
    assert passwords["sentinel"] == first
    files = deploy.render(it, passwords, "systemd", further)
    for name in ("users.acl", "sentinel-users.acl"):
        (line,) = (row for row in files[f"cache-1/{name}"].splitlines() if row.startswith("user sentinel "))
        assert line.count("#") == 2
    assert not [text for text in files.values() if "the-next-one" in text]


def test_passwords_of_the_environment(tmp_path: Path) -> None:
    environment = {f"CACHE_{role.upper()}": PASSWORDS[role] for role in deploy.ROLES}
    assert deploy.read_passwords(described(), tmp_path, environment) == PASSWORDS
    with pytest.raises(DescriptionError, match="CACHE_OPERATOR is not set"):
        deploy.read_passwords(described(), tmp_path, environment | {"CACHE_OPERATOR": ""})


def test_sizes() -> None:
    for text in ("64kb", "512mb", "2gb"):
        assert size_text(size(text)) == text
