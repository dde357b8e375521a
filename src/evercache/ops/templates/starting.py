"""The scripts that start a server: they keep what it has learnt, wait where coming back at once would do harm, and
ask the sentinels which node is the primary.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evercache.ops.templates.servers import STATE, Files, Place

__all__ = ["Asking", "after_boot", "node_preparation", "sentinel_preparation", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a data node asks the sentinels for the primary, before it starts."""

    #: The command line clients to try, by path or name; they log in as `user`, by the password of `masterauth`.
    clients: Sequence[str]
    user: str
    service: str
    sentinels: Sequence[Place]
    #: Where others reach this node; and the only ones that it may follow (empty: any other). Where hosts have
    #: names, an answer could be this node under another one.
    own: Place
    others: Sequence[Place] = ()
    tls: Files | None = None

    def script(self) -> str:
        """Leave `HOST PORT` in `$primary` if more than half of the sentinels name that node, and else nothing."""
        options = ""
        if self.tls:
            options = f" --tls --cacert {shlex.quote(self.tls.ca)}"
            if self.tls.clients:
                options += f" --cert {shlex.quote(self.tls.certificate)} --key {shlex.quote(self.tls.key)}"
        find = " || ".join(f"command -v {shlex.quote(one)}" for one in self.clients)
        places = " ".join(shlex.quote(f"{host} {port}") for host, port in self.sentinels)
        own = shlex.quote(f"{self.own[0]} {self.own[1]}")
        others = "|".join(shlex.quote(f"{host} {port}") for host, port in self.others)
        return (
            "# Roles may have changed while this node was away, or before it was added. More than half of the\n"
            "# sentinels must agree: one that was away itself still names a former primary.\n"
            f"client=$({find} || :)\n"
            "primary=\n"
            'if [ -n "$client" ]; then\n'
            '  REDISCLI_AUTH=$(sed -n "s/^masterauth //p" "$rendered")\n'
            "  export REDISCLI_AUTH\n"
            "  primary=$(\n"
            f"    for place in {places}; do\n"
            f'      timeout 2 "$client" -h "${{place% *}}" -p "${{place#* }}"{options} \\\n'
            f"        --user {shlex.quote(self.user)} sentinel get-master-addr-by-name "
            f"{shlex.quote(self.service)} \\\n"
            "        2>/dev/null | tr '\\n' ' '\n"
            "      echo\n"
            "    done | sort | uniq -c |\n"
            f"      awk -v least={len(self.sentinels) // 2 + 1} "
            """'NF == 3 && $1 >= least { print $2 " " $3 }'\n"""
            "  )\n"
            "  unset REDISCLI_AUTH\n"
            "else\n"
            f"  echo 'no {' nor '.join(self.clients)} here: the sentinels cannot be asked for the primary' >&2\n"
            "fi\n"
            'case "$primary" in\n'
            f"  {own}) primary= ;;\n" + (f"  {others}) ;;\n  *) primary= ;;\n" if others else "") + "esac\n"
        )


def waiting(pidfile: str, seconds: float) -> str:
    """Wait if the server died: one that ends politely removes its pid file."""
    return (
        "# A server that died by itself waits: were it back before the sentinels noticed, a master that\n"
        "# had lost its last second of writes would make its replicas lose them too.\n"
        f"if [ -e {shlex.quote(pidfile)} ]; then\n"
        f"  sleep {math.ceil(seconds)} &\n"
        "  trap 'kill $! && exit 143' TERM INT\n"
        "  wait $!\n"
        "  trap - TERM INT\n"
        "fi\n"
    )


def after_boot(pidfile: str, seconds: float) -> str:
    """The same under systemd, which waits by itself (`RestartSec=`), but not when the machine was down for a "
    "moment."""
    return (
        "# After a crash of the whole machine: it was away for as long as it is up, at least. Were the server back "
        "before\n# the sentinels noticed, a master that had lost its last second would make its replicas lose it "
        f"too.\nif [ -e {shlex.quote(pidfile)} ]; then\n"
        "  read -r up _ < /proc/uptime\n"
        f"  left=$(({math.ceil(seconds)} - ${{up%%.*}}))\n"
        '  if [ "$left" -gt 0 ]; then sleep "$left"; fi\n'
        "fi\n"
    )


def _head(what: str, rendered: str, live: str) -> str:
    return f"#!/bin/sh\n# {what}\nset -eu\numask 077\nrendered={shlex.quote(rendered)}\nlive={shlex.quote(live)}\n"


#: Settings that people change at a running server. Others may look different in a file that a server has rewritten.
_OF_NODES = "maxmemory|maxmemory-policy|appendonly|save|repl-backlog-size|replica-priority|min-replicas-to-write"
_OF_SENTINELS = "down-after-milliseconds|failover-timeout|parallel-syncs"


def _dropped(pattern: str, words: int) -> str:
    """Report the settings that the server has rewritten, and that are not kept: they belong in the description."""
    return (
        'if [ -s "$live" ]; then\n'
        f"""  awk -v words={words} -v names='^({pattern})$' '
    function plain(v) {{
      if (tolower(v) ~ /^[0-9]+kb$/) return sprintf("%.0f", v * 1024)
      if (tolower(v) ~ /^[0-9]+mb$/) return sprintf("%.0f", v * 1048576)
      if (tolower(v) ~ /^[0-9]+gb$/) return sprintf("%.0f", v * 1073741824)
      return v
    }}
    {{ name = $words; if (name !~ names) next; value = plain($NF) }}
    FNR == NR {{ made[name] = value; next }}
    name in made && made[name] != value && !told[name]++ {{
      print "not kept: " name " is " made[name] " as rendered, and was set to " value "; describe it, render again"
    }}
  ' "$rendered" "$live" >&2\n"""
        "fi\n"
    )


def node_preparation(
    rendered: str,
    live: str,
    folder: str,
    wait: Callable[[str, float], str],
    delay: float,
    command: str,
    asking: Asking | None = None,
) -> str:
    """A script for a data node, which `command` ends; `wait` is one of the above."""
    return (
        _head(
            "The data node runs on a copy of the rendered file, and rewrites that copy when its role changes.",
            rendered,
            live,
        )
        + f"mkdir -p {shlex.quote(folder)}\n"
        + wait(f"{folder}/server.pid", delay)
        + _dropped(_OF_NODES, 1)
        + ("primary=\n" if asking is None else asking.script())
        + "# The settings are those that were rendered. It follows the node that the sentinels name; if they name\n"
        "# no other one, its role is what it learnt last.\n"
        'if [ -n "$primary" ]; then\n'
        '  { grep -vE "^replicaof " "$rendered"; echo "replicaof $primary"; } > "$live.new"\n'
        'elif [ -s "$live" ]; then\n'
        '  { grep -vE "^replicaof " "$rendered"; grep -E "^(replicaof|slaveof) " "$live" || :; } > "$live.new"\n'
        "else\n"
        '  cat "$rendered" > "$live.new"\n'
        "fi\n"
        'mv "$live.new" "$live"\n'
        f"{command}"
    )


def sentinel_preparation(rendered: str, live: str, folder: str, service: str, quorum: int, command: str) -> str:
    """The same for a sentinel: it has learnt who is master, since which epoch, and who the others are."""
    state = f"^sentinel ({'|'.join(STATE)}) "
    dotless = service.replace(".", "[.]")
    monitor = f"^sentinel monitor {dotless} ([^ ]+) ([0-9]+) .*"
    return (
        _head(
            "The sentinel runs on a copy of the rendered file, and rewrites that copy with all that it learns.",
            rendered,
            live,
        )
        + f"mkdir -p {shlex.quote(folder)}\n"
        + _dropped(_OF_SENTINELS, 2)
        + "# The settings are those that were rendered; masters, epochs, and the others are what it learnt last.\n"
        f'if [ -s "$live" ] && grep -qE "^sentinel monitor {dotless} " "$live"; then\n'
        "  {\n"
        f'    grep -vE "{state}" "$rendered"\n'
        '    grep -E "^sentinel myid " "$live" || grep -E "^sentinel myid " "$rendered"\n'
        f'    sed -nE "s/{monitor}/sentinel monitor {service} \\1 \\2 {quorum}/p" "$live"\n'
        f'    grep -E "{state}" "$live" | grep -vE "^sentinel (myid|monitor) " || :\n'
        '  } > "$live.new"\n'
        "else\n"
        '  cat "$rendered" > "$live.new"\n'
        "fi\n"
        'mv "$live.new" "$live"\n'
        f"{command}"
    )
