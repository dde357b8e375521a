"""The files that are rendered for each host, by each variant."""

from __future__ import annotations

import configparser
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tests.unit.descriptions import PASSWORDS, changed, described, three

from evercache.errors import DescriptionError
from evercache.ops import deploy
from evercache.ops.deploy.acl import APPLICATION
from evercache.url import parse_url

_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
TLS = {"enabled": True}


def rendered(variant: str, **more: Any) -> dict[str, str]:
    values = three(**more)
    if variant == "kubernetes":
        changed(values, *({"address": f"cache-{n}.default.svc.cluster.local"} for n in (1, 2, 3)))
    return deploy.render(deploy.parse(values), PASSWORDS, variant)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_each_host_gets_its_files() -> None:
    common = {"README.md", "valkey.conf", "sentinel.conf", "users.acl", "sentinel-users.acl"}
    machine = common | {"install.sh", "reload.sh", "kernel.sh", "99-evercache.conf", "firewall.nft"}
    run = {"run-node.sh", "run-sentinel.sh"}
    wanted = {
        "supervisor": machine | run | {"supervisord.conf", "programs.conf"},
        "systemd": machine
        | {"prepare-node.sh", "prepare-sentinel.sh", "systemd/evercache-kernel.service"}
        | {"systemd/evercache-shop-node.service", "systemd/evercache-shop-sentinel.service"},
        "compose": machine | run | {"compose.yaml"},
        "kubernetes": {"README.md", "manifests.yaml"},
    }
    for variant in deploy.VARIANTS:
        files = rendered(variant)
        for host in ("cache-1", "cache-2", "cache-3"):
            own = {path.removeprefix(f"{host}/") for path in files if path.startswith(f"{host}/")}
            assert own == wanted[variant]
    assert "cache-1/redis.conf" in rendered("systemd", server={"kind": "redis", "version": "7.4"})


def test_a_witness_has_no_data_node() -> None:
    files = deploy.render(deploy.parse(changed(three(), {}, {}, {"node": False})), PASSWORDS, "systemd")
    assert "cache-3/valkey.conf" not in files
    assert "replicaof 10.0.0.1 6379" in files["cache-2/valkey.conf"]
    assert "min-replicas-to-write 0" in files["cache-2/valkey.conf"]


def test_the_node_of_each_host() -> None:
    files = rendered("supervisor")
    first, second = (lines(files[f"cache-{n}/valkey.conf"]) for n in (1, 2))
    assert not [line for line in first if line.startswith("replicaof")]
    assert set(second) - set(first) == {"bind 10.0.0.2", "replicaof 10.0.0.1 6379", "replica-announce-ip 10.0.0.2"}
    assert {
        "port 6379",
        "maxmemory 2gb",
        "maxmemory-policy volatile-lru",
        "appendonly yes",
        "appendfsync everysec",
        "min-replicas-to-write 1",
        "repl-backlog-size 131072kb",
        "aclfile /etc/evercache/users.acl",
        "masteruser replication",
        f"masterauth {PASSWORDS['replication']}",
        'dir "/var/lib/evercache/node"',
    } <= set(first)


def test_the_sentinel_of_each_host() -> None:
    files = rendered("supervisor")
    idents = [re.findall(r"myid (\w{40})$", files[f"cache-{n}/sentinel.conf"], re.M)[0] for n in (1, 2, 3)]
    assert len(set(idents)) == 3
    assert {
        "bind 10.0.0.2",
        "sentinel announce-ip 10.0.0.2",
        "sentinel monitor shop 10.0.0.1 6379 2",
        "sentinel down-after-milliseconds shop 5000",
        "sentinel parallel-syncs shop 1",
        "sentinel master-reboot-down-after-period shop 30000",
        "sentinel auth-user shop sentinel",
        f"sentinel auth-pass shop {PASSWORDS['sentinel']}",
        f"sentinel sentinel-pass {PASSWORDS['sentinel']}",
        "sentinel known-replica shop 10.0.0.2 6379",
        f"sentinel known-sentinel shop 10.0.0.3 26379 {idents[2]}",
    } <= set(lines(files["cache-2/sentinel.conf"]))
    assert files == rendered("supervisor")


def test_settings_that_only_some_versions_know() -> None:
    def sentinel(kind: str, version: str) -> str:
        return rendered("supervisor", server={"kind": kind, "version": version})["cache-1/sentinel.conf"]

    assert "primary-reboot-down-after-period" in sentinel("valkey", "9.0")
    assert "master-reboot-down-after-period" in sentinel("redis", "8.0")
    assert "reboot" not in "\n".join(lines(sentinel("redis", "6.2")))
    old = rendered("supervisor", server={"kind": "redis", "version": "7.0"})
    assert "setinfo" not in old["cache-1/users.acl"] + old["cache-1/sentinel-users.acl"]
    assert "setinfo" in rendered("supervisor")["cache-1/users.acl"]


def test_clients_cannot_use_up_the_memory() -> None:
    files = rendered("systemd")
    assert "maxmemory-clients 512mb" in lines(files["cache-1/valkey.conf"])
    assert "maxmemory-clients 64mb" in lines(files["cache-1/sentinel.conf"])
    small = rendered("systemd", server={"memory": "64mb"})
    assert "maxmemory-clients 64mb" in lines(small["cache-1/valkey.conf"])
    old = rendered("systemd", server={"kind": "redis", "version": "6.2"})
    for name in ("redis.conf", "sentinel.conf"):
        assert {"client-output-buffer-limit normal 256mb 64mb 60", "client-query-buffer-limit 64mb"} <= {
            *lines(old[f"cache-1/{name}"])
        }


def test_names_are_resolved_and_announced_and_addresses_are_not() -> None:
    named = changed(three(), *({"address": f"cache-{n}.example"} for n in (1, 2, 3)))
    files = deploy.render(deploy.parse(named), PASSWORDS, "supervisor")
    told = lines(files["cache-1/sentinel.conf"])
    assert {"sentinel resolve-hostnames yes", "sentinel announce-hostnames yes", "bind * -::*"} <= set(told)
    assert "hostnames" not in rendered("supervisor")["cache-1/sentinel.conf"]


def test_tls_leaves_no_port_without_it() -> None:
    files = rendered("supervisor", tls=TLS)
    for name in ("valkey.conf", "sentinel.conf"):
        told = lines(files[f"cache-1/{name}"])
        assert {"port 0", "tls-replication yes", 'tls-cert-file "/etc/evercache/tls/tls.crt"'} <= set(told)
        assert "tls-auth-clients no" in told
    place = parse_url(files["urls/application.url"].strip())
    assert place.node_options.tls is not None
    assert place.node_options.tls.ca_certs == "/etc/evercache/tls/ca.crt"
    both = rendered("supervisor", tls={**TLS, "client_certificates": True})
    assert "tls-auth-clients yes" in both["cache-1/valkey.conf"]
    assert "ssl_keyfile=/etc/evercache/tls/client.key" in both["urls/application.url"]


def test_persistence_by_snapshots_or_both() -> None:
    rdb = lines(rendered("supervisor", persistence={"mode": "rdb"})["cache-1/valkey.conf"])
    assert {"appendonly no", "save 900 1 300 100 60 10000"} <= set(rdb)
    both = lines(rendered("supervisor", persistence={"mode": "both", "save": "60 1"})["cache-1/valkey.conf"])
    assert {"appendonly yes", "save 60 1"} <= set(both)


# -- rights


def test_the_acl_has_no_password_and_an_end_for_strangers() -> None:
    files = rendered("supervisor", application={"namespace": "store", "keys": ["rq:*"], "commands": ["+@list"]})
    for name in ("users.acl", "sentinel-users.acl"):
        text = files[f"cache-1/{name}"]
        loads = " ~* &* +@all" if name == "users.acl" else ""  # off, and whom an AOF is read as
        assert text.startswith(f"user default reset{loads}\n")
        assert not [one for one in PASSWORDS.values() if one in text]
        assert f"user store reset on #{hashlib.sha256(PASSWORDS['application'].encode()).hexdigest()} " in text
    rule = next(line for line in files["cache-1/users.acl"].splitlines() if line.startswith("user store "))
    assert " ~store:* ~store~* ~rq:* " in rule
    assert rule.endswith("+@list")
    assert "@all" not in rule.replace("-@all", "")


def test_the_applications_rights_are_those_of_the_document() -> None:
    (line,) = re.findall(r"^```acl\n(.+)\n```$", _PAGE.read_text(encoding="utf-8"), re.M)
    assert line.endswith(f" -@all {APPLICATION}")


def test_passwords_are_only_where_a_server_needs_them() -> None:
    files = rendered("systemd")
    for path, text in files.items():
        found = {role for role, password in PASSWORDS.items() if password in text}
        name = path.rpartition("/")[2]
        wanted = {
            "valkey.conf": {"replication"},
            "sentinel.conf": {"sentinel"},
            **{f"{role}.url": {role} for role in ("application", "monitoring", "operator")},
        }
        assert found == wanted.get(name, set()), path


def test_weak_passwords_are_refused() -> None:
    with pytest.raises(DescriptionError, match="password of operator has 5 characters"):
        deploy.render(described(), {**PASSWORDS, "operator": "short"}, "systemd")


def test_the_urls() -> None:
    place = parse_url(rendered("systemd")["urls/application.url"].strip())
    assert (place.kind, place.service) == ("sentinel", "shop")
    assert [str(one) for one in place.sentinels] == [f"10.0.0.{n}:26379" for n in (1, 2, 3)]
    assert place.node_options.credentials.username == "shop"
    assert place.sentinel_options.credentials.password == PASSWORDS["application"]
    one = described(hosts=[{"name": "cache-1", "address": "fd00::1", "sentinel": False}])
    assert str(parse_url(deploy.url_of(one, PASSWORDS, "operator")).nodes[0]) == "[fd00::1]:6379"


# -- what keeps them running


def test_supervisor_waits_long_enough_at_both_ends() -> None:
    files = rendered("supervisor")
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(files["cache-1/programs.conf"])
    node = parser["program:node"]
    assert node["autorestart"] == "unexpected"
    assert int(node["stopwaitsecs"]) >= 100
    assert node["user"] == "valkey"
    (delay,) = re.findall(r"\bsleep (\d+)", files["cache-1/run-node.sh"])
    assert int(delay) > 5
    assert "sleep" not in files["cache-1/run-sentinel.sh"]


def test_systemd_waits_and_gives_the_server_its_folder_only() -> None:
    files = rendered("systemd")
    told = files["cache-1/systemd/evercache-shop-node.service"].splitlines()
    for line in ("RestartSec=7", "Restart=on-failure", "User=valkey", "ProtectSystem=strict", "Type=notify"):
        assert line in told
    assert "ReadWritePaths=/var/lib/evercache/node" in told
    wheel = rendered("systemd", server={"install": "wheel", "binary": "/home/x/valkey-server"})
    told = wheel["cache-1/systemd/evercache-shop-node.service"].splitlines()
    assert {"Type=exec", "ProtectHome=read-only"} <= set(told)


def documents(text: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(text))


def test_compose_has_room_and_the_network_of_the_host() -> None:
    (made,) = documents(rendered("compose")["cache-1/compose.yaml"])
    assert set(made["services"]) == {"node", "sentinel"}
    assert made["services"]["node"]["network_mode"] == "host"
    # Room for copies while it saves.
    assert int(made["services"]["node"]["mem_limit"].rstrip("m")) >= 1.5 * 2048


def test_kubernetes_manifests_belong_together() -> None:
    files = rendered("kubernetes", tls=TLS)
    service, secret, pods = documents(files["cache-2/manifests.yaml"])
    assert [one["kind"] for one in (service, secret, pods)] == ["Service", "Secret", "StatefulSet"]
    template = pods["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"] == pods["spec"]["selector"]["matchLabels"]
    assert pods["spec"]["serviceName"] == service["metadata"]["name"] == "cache-2"
    (volume,) = template["spec"]["volumes"]
    config, tls = (source["secret"] for source in volume["projected"]["sources"])
    assert (config["name"], tls["name"]) == (secret["metadata"]["name"], "cache-2-tls")
    assert [item["path"] for item in tls["items"]] == ["tls/ca.crt", "tls/tls.crt", "tls/tls.key"]
    stored = secret["stringData"]
    assert (
        stored["valkey.conf"]
        == deploy.render(
            deploy.parse(
                changed(three(tls=TLS), *({"address": f"cache-{n}.default.svc.cluster.local"} for n in (1, 2, 3)))
            ),
            PASSWORDS,
            "compose",
        )["cache-2/valkey.conf"]
    )
    for one in template["spec"]["containers"]:
        assert one["command"][1].removeprefix("/etc/evercache/") in stored
        assert one["securityContext"]["readOnlyRootFilesystem"]
    budget, policy = documents(files["common/policies.yaml"])
    assert budget["spec"]["maxUnavailable"] == 1
    assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == {6379, 26379}


def test_the_firewall_list_names_who_must_come_in() -> None:
    text = rendered("systemd", application={"networks": ["10.0.1.0/24", "fd00:1::/64"]})["cache-1/firewall.nft"]
    assert "ip saddr { 10.0.0.2, 10.0.0.3, 10.0.1.0/24 } tcp dport 6379 accept" in text
    assert "ip6 saddr { fd00:1::/64 } tcp dport 26379 accept" in text
    assert text.count("drop") == 2
    assert re.search(r"^# 26379 +10\.0\.0\.3 +the other sentinels$", text, re.M)
    # Rules that would shut somebody out are not written.
    assert "drop" not in rendered("systemd")["cache-1/firewall.nft"]
    named = changed(three(), *({"address": f"cache-{n}.example"} for n in (1, 2, 3)))
    named["application"] = {"networks": ["10.0.1.0/24"]}
    text = deploy.render(deploy.parse(named), PASSWORDS, "systemd")["cache-1/firewall.nft"]
    assert "cache-2.example" in text
    assert "drop" not in text
