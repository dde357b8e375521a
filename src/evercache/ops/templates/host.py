"""What a host itself needs: settings of the kernel, a list for the firewall, and the script that puts files into "
"place."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["SYSCTL", "Opening", "Running", "firewall_text", "install_text", "kernel_text", "reload_text"]

SYSCTL = """\
# A save forks; without this it fails when memory is half full.
vm.overcommit_memory = 1
# A server whose pages are swapped out answers late, and is held for dead.
vm.swappiness = 0
# Connections that wait to be accepted; the servers ask for 511.
net.core.somaxconn = 1024
net.ipv4.tcp_max_syn_backlog = 1024
"""


def kernel_text(sysctl: str) -> str:
    """The script of kernel settings, for each boot. It changes nothing that is right already."""
    return f"""\
#!/bin/sh
# Kernel settings for the servers: now, and at each boot. As root.
set -eu
sysctl -q -p {shlex.quote(sysctl)}
# With huge pages each save copies 2 MB for one byte that changes.
if [ -w /sys/kernel/mm/transparent_hugepage/enabled ]; then
  echo never > /sys/kernel/mm/transparent_hugepage/enabled
fi
if [ "$(awk '/^SwapTotal:/ {{ print $2 }}' /proc/meminfo)" != 0 ]; then
  echo "there is swap: take it out of /etc/fstab, and run  swapoff -a" >&2
fi
"""


@dataclass(frozen=True, slots=True)
class Opening:
    """Who may connect to which port of a host."""

    sources: tuple[str, ...]
    port: int
    why: str


def firewall_text(host: str, openings: Sequence[Opening]) -> str:
    """The list; and the same as rules of nftables, where every source is known as an address."""
    lines = [f"# Who must reach {host}, by TCP. Nobody else needs to.", "#", f"# {'port':<7}{'from':<40}for"]
    for one in openings:
        lines += [f"# {one.port:<7}{source:<40}{one.why}" for source in one.sources or ("(not described)",)]
    if not all(one.sources for one in openings):
        lines += ["#", "# No rules follow: they would shut the application out. Describe application.networks."]
    elif not all(_is_network(source) for one in openings for source in one.sources):
        lines += ["#", "# No rules follow: a firewall takes addresses, and hosts are described by names."]
    else:
        lines += ["#", "# The same as rules, for `nft -f`:", "", *_rules(openings)]
    return "\n".join(lines) + "\n"


def _rules(openings: Sequence[Opening]) -> Iterator[str]:
    # Created, so that there is one to delete: loading it again replaces it.
    yield from ("table inet evercache", "delete table inet evercache", "", "table inet evercache {")
    yield from ("  chain input {", "    type filter hook input priority 0; policy accept;")
    for port in dict.fromkeys(one.port for one in openings):
        sources = dict.fromkeys(source for one in openings if one.port == port for source in one.sources)
        # Of the host itself: a person, or the doctor.
        yield f'    iifname "lo" tcp dport {port} accept'
        for family, some in (
            ("ip", [s for s in sources if ":" not in s]),
            ("ip6", [s for s in sources if ":" in s]),
        ):
            if some:
                yield f"    {family} saddr {{ {', '.join(some)} }} tcp dport {port} accept"
        yield f"    tcp dport {port} drop"
    yield from ("  }", "}")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def install_text(
    *,
    host: str,
    owner: str,
    config: str,
    data: str,
    folders: Sequence[str],
    files: Sequence[str],
    more: Sequence[str],
) -> str:
    """A script that copies `files` to the config path; `more` are commands for root that end it."""
    listed = " ".join(shlex.quote(one) for one in files)
    made = " ".join(shlex.quote(f"{data}/{one}") for one in folders)
    text = f"""\
#!/bin/sh
# Puts the files of {host} into place. As root; run it again after each rendering.
# It never touches what the servers rewrite: that is in {data}.
set -eu
umask 077
cd "$(dirname "$0")"
owner={shlex.quote(owner)}
config={shlex.quote(config)}
root() {{ [ "$(id -u)" = 0 ]; }}
group() {{ case "$owner" in *[!0-9]*) id -gn "$owner" ;; *) echo "$owner" ;; esac; }}

(umask 022; mkdir -p "$config" {made})
if root; then
  group=$(group)
  chown "root:$group" "$config"
  chmod 750 "$config"
  chmod 755 {shlex.quote(data)}
  chown "$owner:$group" {made}
fi
chmod 700 {made}
for file in {listed} $(ls tls/ca.crt tls/tls.crt tls/tls.key 2>/dev/null || :); do
  mkdir -p "$(dirname "$config/$file")"
  cp "$file" "$config/$file.new"
  if root; then
    chown "root:$group" "$config/$file.new" "$(dirname "$config/$file")"
    chmod 640 "$config/$file.new"
    chmod 750 "$(dirname "$config/$file")"
  fi
  mv "$config/$file.new" "$config/$file"
done
"""
    if more:
        text += "if root; then\n" + "".join(f"  {one}\n" for one in more) + "fi\n"
    return text + f'echo "the files of {host} are in $config"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How the servers of a host are reached, and the files that they run on."""

    #: The command line client with its options, but for the port.
    cli: str
    #: The ports; 0 where there is no such server.
    node: int
    sentinel: int
    service: str
    config: str
    node_file: str
    #: The certificate as the node has it; empty without TLS.
    certificate: str
    #: What restarts the sentinel.
    restart: str


def reload_text(host: str, one: Running) -> str:
    """A script that installs, and has the running servers take over passwords and certificates.

    It sets the users one by one: `ACL LOAD` of Redis before 7.2 closes all connections. Passwords go by standard
    input, because everybody on a machine can see the words of a command.
    """
    text = f"""\
#!/bin/sh
# Installs the files of {host}, and has its servers take over passwords and certificates without a restart.
# As root. It asks for the operator's password, unless REDISCLI_AUTH or VALKEYCLI_AUTH has it.
set -eu
cd "$(dirname "$0")"
config={shlex.quote(one.config)}
REDISCLI_AUTH=${{REDISCLI_AUTH:-${{VALKEYCLI_AUTH:-}}}}
if [ -z "$REDISCLI_AUTH" ]; then
  printf 'password of the operator: ' >&2
  if [ -t 0 ]; then trap 'stty echo' EXIT INT TERM; stty -echo; fi
  read -r REDISCLI_AUTH
  if [ -t 0 ]; then stty echo; trap - EXIT INT TERM; echo >&2; fi
fi
VALKEYCLI_AUTH=$REDISCLI_AUTH
export REDISCLI_AUTH VALKEYCLI_AUTH
sh install.sh
cli() {{ timeout 10 {one.cli} -p "$@"; }}
check() {{ [ "$1" = OK ] || {{ echo "$2: ${{1:-no answer}}" >&2; exit 1; }}; }}
secret() {{ sed -n "s/^$1 //p" "$config/$2" | tr -d '\n'; }}
users() {{
  set -f
  while read -r word name rules; do
    [ "$word" = user ] || continue
    check "$(cli "$1" ACL SETUSER "$name" $rules < /dev/null)" "user $name at port $1"
  done < "$config/$2"
  set +f
}}
"""
    if one.node:
        text += f"""\

users {one.node} users.acl
check "$(secret masterauth {one.node_file} | cli {one.node} -x CONFIG SET masterauth)" "masterauth"
"""
        if one.certificate:
            set_ = f"CONFIG SET tls-cert-file {shlex.quote(one.certificate)}"
            text += f"""check "$(cli {one.node} {set_} < /dev/null)" "the certificate"\n"""
    if one.sentinel:
        text += f"""\

users {one.sentinel} sentinel-users.acl
check "$(secret 'sentinel auth-pass {one.service}' sentinel.conf |
  cli {one.sentinel} -x SENTINEL SET {one.service} auth-pass)" "auth-pass"
check "$(secret 'sentinel sentinel-pass' sentinel.conf |
  cli {one.sentinel} -x SENTINEL CONFIG SET sentinel-pass)" "sentinel-pass"
"""
        if one.certificate:
            text += f"""\
echo "a sentinel reads its certificate at its start only: if that is a new one, restart it, and wait for"
echo "'evercache doctor' before the next host:  {one.restart}"
"""
    return (
        text
        + f'echo "the servers of {host} have their passwords{" and certificates" if one.certificate else ""}"\n'
    )
