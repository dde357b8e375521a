"""From a description to the files of every host. Pure: nothing is read or written here."""

from __future__ import annotations

import ipaddress
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from evercache.ops.deploy.acl import User, node_users, sentinel_users
from evercache.ops.deploy.conf import Program, node_text, sentinel_text
from evercache.ops.deploy.description import Description, Host
from evercache.ops.deploy.layout import Layout, layout_of
from evercache.ops.deploy.sound import check
from evercache.ops.templates import fill

__all__ = ["render", "url_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One server in a container. Memory in bytes."""

    name: str
    script: str
    port: int
    memory: int


@dataclass(frozen=True, slots=True)
class Opening:
    """Who may connect to which port of a host."""

    sources: tuple[str, ...]
    port: int
    why: str


#: Bytes that a sentinel may take.
_SENTINEL_MEMORY = 128 << 20


def render(
    description: Description,
    passwords: Mapping[str, str],
    variant: str,
    further: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """The text of each file by its path below the output folder; `DescriptionError` for what cannot work.

    With the `further` passwords of a role, servers accept it as well.
    """
    check(description, variant, passwords)
    found: dict[str, str] = {".gitignore": "# Passwords are in here.\n*\n"}
    for role in ("application", "monitoring", "operator"):
        found[f"urls/{role}.url"] = url_of(description, passwords, role) + "\n"
    if variant == "kubernetes":
        found["common/policies.yaml"] = fill("policies.yaml", d=description)
    for host in description.hosts:
        for name, text in _Host(description, passwords, further or {}, variant, host).files().items():
            found[f"{host.name}/{name}"] = text
    return found


def url_of(description: Description, passwords: Mapping[str, str], role: str) -> str:
    """The URL by which a role reaches the deployment, with its passwords."""
    secure = "s" if description.tls.enabled else ""
    user, password = (quote(text, safe="") for text in (description.user_of(role), passwords[role]))
    tls, folder = "", quote(description.tls.client_folder.rstrip("/"))
    if secure:
        tls = f"ssl_ca_certs={folder}/ca.crt"
        if description.tls.client_certificates:
            tls += f"&ssl_certfile={folder}/client.crt&ssl_keyfile={folder}/client.key"
    if not description.sentinels:
        (node,) = description.nodes
        query = f"?{tls}" if tls else ""
        return f"redis{secure}://{user}:{password}@{_joined(node.address, description.ports.node)}{query}"
    hosts = ",".join(_joined(host.address, description.ports.sentinel) for host in description.sentinels)
    query = f"sentinel_username={user}&sentinel_password={password}" + (f"&{tls}" if tls else "")
    return f"sentinel{secure}://{user}:{password}@{hosts}/{description.name}?{query}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Host:
    """The files of one host."""

    description: Description
    passwords: Mapping[str, str]
    further: Mapping[str, Sequence[str]]
    variant: str
    host: Host

    @property
    def layout(self) -> Layout:
        return layout_of(self.description, self.host, self.variant)

    def files(self) -> dict[str, str]:
        """By their names in the host's folder."""
        config = dict(self._config())
        variant = {
            "supervisor": self._supervisor,
            "systemd": self._systemd,
            "compose": self._compose,
            "kubernetes": self._kubernetes,
        }[self.variant]
        found = {**config, **dict(variant(config))}
        if self.variant == "kubernetes":
            found = dict(variant(config))
        else:
            found |= dict(self._machine())
            found["install.sh"] = self._install(list(found))
            found["reload.sh"] = self._reload()
        found["README.md"] = self._readme()
        return found

    # -- what every variant has

    def _config(self) -> Iterator[tuple[str, str]]:
        d, layout = self.description, self.layout
        users = {
            role: User(d.user_of(role), (password, *self.further.get(role, ())))
            for role, password in self.passwords.items()
        }
        # systemd starts the servers itself, and waits before that.
        boot = self.variant == "systemd"
        start, program = ("prepare", "") if boot else ("run", layout.program)
        if self.host.node:
            yield layout.node_file, self._node()
            yield "users.acl", node_users(users, d)
            yield (
                f"{start}-node.sh",
                fill(
                    "start-node.sh",
                    rendered=layout.rendered(layout.node_file),
                    live=layout.node_live,
                    folder=layout.node,
                    boot=boot,
                    delay=math.ceil(d.restart_delay),
                    program=program,
                    **self._asking(),
                ),
            )
        if self.host.sentinel:
            yield "sentinel.conf", self._sentinel()
            yield "sentinel-users.acl", sentinel_users(users, d)
            yield (
                f"{start}-sentinel.sh",
                fill(
                    "start-sentinel.sh",
                    rendered=layout.rendered("sentinel.conf"),
                    live=layout.sentinel_live,
                    folder=layout.sentinel,
                    service=d.name,
                    quorum=d.quorum,
                    program=program,
                ),
            )

    def _node(self) -> str:
        d, host, layout = self.description, self.host, self.layout
        first = d.nodes[0]
        return node_text(
            d,
            bind=layout.bind,
            place=(host.address, d.ports.node),
            folder=layout.node,
            access=(
                f"aclfile {layout.rendered('users.acl')}",
                f"masteruser {d.user_of('replication')}",
                f"masterauth {self.passwords['replication']}",
            ),
            master=None if host is first else (first.address, d.ports.node),
            priority=host.priority,
            tls=layout.tls,
        )

    def _asking(self) -> dict[str, object]:
        """How a data node asks the sentinels for the primary before it starts; nobody if there is no other node."""
        d, layout = self.description, self.layout
        others = [(one.address, d.ports.node) for one in d.nodes if one is not self.host]
        folder, slash, _ = layout.program.rpartition("/")
        clients = f"{folder}{slash}{d.server.cli}", d.server.cli, "valkey-cli", "redis-cli"
        return {
            "clients": list(dict.fromkeys(clients)),
            "user": d.user_of("replication"),
            "service": d.name,
            "sentinels": [(one.address, d.ports.sentinel) for one in d.sentinels] if others else [],
            "own": (self.host.address, d.ports.node),
            # Where hosts have names, an answer could be this node under another one: only these are followed.
            "others": others if d.by_name else [],
            "tls": layout.tls,
        }

    def _sentinel(self) -> str:
        d, host, layout = self.description, self.host, self.layout
        user = d.user_of("sentinel")
        return sentinel_text(
            d,
            bind=layout.bind,
            place=(host.address, d.ports.sentinel),
            folder=layout.sentinel,
            access=(f"aclfile {layout.rendered('sentinel-users.acl')}",),
            login=(
                f"sentinel auth-user {d.name} {user}",
                f"sentinel auth-pass {d.name} {self.passwords['sentinel']}",
                f"sentinel sentinel-user {user}",
                f"sentinel sentinel-pass {self.passwords['sentinel']}",
            ),
            ident=host.ident(d.name),
            nodes=[(one.address, d.ports.node) for one in d.nodes],
            others=[((one.address, d.ports.sentinel), one.ident(d.name)) for one in d.sentinels if one is not host],
            tls=layout.tls,
        )

    # -- what keeps the servers running

    def _supervisor(self, config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        d, layout = self.description, self.layout
        own = f"{layout.data}/supervisor"
        yield (
            "supervisord.conf",
            fill(
                "supervisord.conf",
                socket=f"{own}/supervisor.sock",
                log=f"{own}/supervisord.log",
                pidfile=f"{own}/supervisord.pid",
                identifier=f"evercache-{d.name}-{self.host.name}",
                folder=own,
                include=layout.rendered("programs.conf"),
            ),
        )
        programs = [
            Program(
                name=name,
                command=f"/bin/sh {layout.rendered(f'run-{name}.sh')}",
                folder=f"{layout.data}/{name}",
                log=f"{own}/{name}.log",
                log_size="10MB",
                log_backups=3,
                # Each try comes a second later than the one before: an address may appear minutes after the boot.
                retries=1000,
                stop_seconds=d.stop_timeout if name == "node" else 10,
                user=d.user,
                priority=1 if name == "node" else 2,
            )
            for name in self._names()
        ]
        yield "programs.conf", fill("programs.conf", programs=programs)

    def _systemd(self, config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        d, layout = self.description, self.layout
        for name in self._names():
            node = name == "node"
            live = layout.node_live if node else f"{layout.sentinel_live} --sentinel"
            yield (
                f"systemd/evercache-{d.name}-{name}.service",
                fill(
                    "unit.service",
                    title=f"{'Data node' if node else 'Sentinel'} of {d.name} on {self.host.name}",
                    user=d.user,
                    prepare=layout.rendered(f"prepare-{name}.sh"),
                    command=f"{layout.program} {live}",
                    folder=f"{layout.data}/{name}",
                    notify=d.server.install == "packages",
                    restart_seconds=math.ceil(d.restart_delay) if node else 1,
                    stop_seconds=d.stop_timeout if node else 10,
                ),
            )
        yield "systemd/evercache-kernel.service", fill("kernel.service", script=layout.rendered("kernel.sh"))

    def _compose(self, config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        d = self.description
        yield (
            "compose.yaml",
            fill(
                "compose.yaml",
                d=d,
                config=d.folder("config", self.host),
                data=d.folder("data", self.host),
                probe=self._cli(),
                containers=self._containers(),
            ),
        )

    def _kubernetes(self, config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        d = self.description
        storage = d.kubernetes.storage or f"{max(1, -(-4 * d.server.memory // (1 << 30)))}Gi"
        yield (
            "manifests.yaml",
            fill(
                "manifests.yaml",
                d=d,
                host=self.host,
                storage=storage if self.host.node else "1Gi",
                files=config,
                containers=self._containers(),
            ),
        )

    def _cli(self) -> list[str]:
        """The command line client, run where the servers are."""
        words = [self.description.server.cli, "-h", self.layout.bind[0].replace("*", "127.0.0.1")]
        if self.layout.tls:
            words += ["--tls", "--cacert", self.layout.tls.ca]
            if self.layout.tls.clients:
                words += ["--cert", self.layout.tls.certificate, "--key", self.layout.tls.key]
        return words

    def _reload(self) -> str:
        d, host = self.description, self.host
        config = str(d.folder("config", host))
        cli = [*self._cli(), "--user", d.user_of("operator"), "--no-auth-warning"]
        if self.variant == "compose":
            inside = ["docker", "compose", "-f", f"{config}/compose.yaml", "exec", "-T"]
            inside += ["-e", "REDISCLI_AUTH", "-e", "VALKEYCLI_AUTH"]
            cli = [*inside, self._names()[0], *cli]
        restart = {
            "supervisor": f"{self._supervisorctl()} restart sentinel",
            "systemd": f"systemctl restart evercache-{d.name}-sentinel",
            "compose": f"docker compose -f {config}/compose.yaml restart sentinel",
        }[self.variant]
        return fill(
            "reload.sh",
            d=d,
            host=host,
            config=config,
            cli=shlex.join(cli),
            node_file=self.layout.node_file,
            certificate=self.layout.tls.certificate if self.layout.tls else "",
            restart=restart,
        )

    def _supervisorctl(self) -> str:
        """How the host's Supervisor is spoken to: Debian's, or one of our own."""
        if self.description.server.install == "packages":
            return "supervisorctl"
        return f"supervisorctl -c {self.description.folder('config', self.host)}/supervisord.conf"

    def _readme(self) -> str:
        d, host, layout = self.description, self.host, self.layout
        compose = self.variant == "compose"
        data = d.folder("data", host)
        live = {"node": layout.node_live, "sentinel": layout.sentinel_live}
        if compose:
            live = {"node": f"{data}/node/{layout.node_file}", "sentinel": f"{data}/sentinel/sentinel.conf"}
        return fill(
            "README.md",
            d=d,
            host=host,
            variant=self.variant,
            config=d.folder("config", host),
            data=data,
            owner=d.containers.uid if compose else d.user,
            supervisorctl=self._supervisorctl(),
            live=live,
        )

    def _names(self) -> list[str]:
        return [name for name, there in (("node", self.host.node), ("sentinel", self.host.sentinel)) if there]

    def _containers(self) -> list[Container]:
        d = self.description
        # A save copies pages that change meanwhile; replicas have buffers.
        node = d.server.memory * 3 // 2 + 2 * d.backlog + (256 << 20)
        sizes = {"node": (d.ports.node, node), "sentinel": (d.ports.sentinel, _SENTINEL_MEMORY)}
        return [
            Container(name=name, script=self.layout.rendered(f"run-{name}.sh"), port=port, memory=memory)
            for name in self._names()
            for port, memory in (sizes[name],)
        ]

    # -- the machine itself

    def _machine(self) -> Iterator[tuple[str, str]]:
        d = self.description
        sysctl = "99-evercache.conf"
        yield sysctl, fill(sysctl)
        # In Compose, the servers see another path than the host.
        config = str(d.folder("config", self.host)) if self.variant == "compose" else self.layout.config
        yield "kernel.sh", fill("kernel.sh", sysctl=f"{config}/{sysctl}")
        openings = list(self._openings())
        yield (
            "firewall.nft",
            fill("firewall.nft", host=self.host.name, openings=openings, rules=_rules(openings)),
        )

    def _openings(self) -> Iterator[Opening]:
        d, host = self.description, self.host
        others = tuple(one.address for one in d.hosts if one is not host)
        if host.node:
            if others:
                yield Opening(others, d.ports.node, "replicas and sentinels")
            yield Opening(d.application.networks, d.ports.node, "the application")
        if host.sentinel:
            yield Opening(others, d.ports.sentinel, "the other sentinels")
            yield Opening(d.application.networks, d.ports.sentinel, "the application")

    def _install(self, files: list[str]) -> str:
        d, host = self.description, self.host
        return fill(
            "install.sh",
            host=host.name,
            owner=d.containers.uid if self.variant == "compose" else d.user,
            config=d.folder("config", host),
            data=d.folder("data", host),
            folders=[*self._names(), *(["supervisor"] if self.variant == "supervisor" else [])],
            files=[name for name in files if not name.startswith(("systemd/", "firewall"))],
            variant=self.variant,
        )


def _rules(openings: Sequence[Opening]) -> list[tuple[int, list[tuple[str, list[str]]]]]:
    """The sources that may reach each port, by family; empty where a source is a name, which no firewall takes."""
    if not all(_is_network(source) for one in openings for source in one.sources):
        return []
    rules = []
    for port in dict.fromkeys(one.port for one in openings):
        sources = dict.fromkeys(source for one in openings if one.port == port for source in one.sources)
        families = [("ip", [s for s in sources if ":" not in s]), ("ip6", [s for s in sources if ":" in s])]
        rules.append((port, [(family, some) for family, some in families if some]))
    return rules


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
