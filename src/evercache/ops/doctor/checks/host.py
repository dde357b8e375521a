"""The kernel under the servers: only a shell on each host shows it."""

from __future__ import annotations

from collections.abc import Iterator

from evercache.ops.doctor.facts import Facts
from evercache.ops.doctor.registry import Finding, Severity, check, found, unseen

__all__: list[str] = []


@check(
    "kernel",
    "overcommit on, no huge pages, no swap",
    Severity.warning,
    why="Without overcommit a save or a first copy fails when memory is half full. Transparent huge pages make "
    "each save copy 2 MB for a changed byte. A server whose pages are swapped out answers late, and is held for "
    "dead.",
    mend="`sysctl vm.overcommit_memory=1`; `echo never > /sys/kernel/mm/transparent_hugepage/enabled`; `swapoff "
    "-a`",
)
def kernel(facts: Facts) -> Iterator[Finding]:
    """Every host that there was a shell on; the others are named."""
    told = {address for host in facts.hosts for address in host.addresses}
    for host in facts.hosts:
        if not host.addresses:
            continue  # no server of the deployment runs there
        for what in ("overcommit", "huge_pages", "swap"):
            if what in host.hidden:
                yield unseen(f"{host.name}: {host.hidden[what]}", host=True)
        if host.overcommit and host.overcommit != "1":
            yield found(
                f"{host.name}: vm.overcommit_memory is {host.overcommit}",
                "sysctl vm.overcommit_memory=1\nand the same in a file in /etc/sysctl.d/",
            )
        if host.huge_pages == "always":
            yield found(
                f"{host.name}: transparent huge pages are always used",
                "echo never > /sys/kernel/mm/transparent_hugepage/enabled\nand the same at each boot",
            )
        if host.swap_bytes:
            yield found(
                f"{host.name}: {host.swap_bytes >> 20} MB of swap",
                "swapoff -a\nand no swap in /etc/fstab; or vm.swappiness=0",
            )
    places = dict.fromkeys(one.address.host for one in facts.servers)
    for place in places:
        if place not in told and facts.ip(place) not in told:
            yield unseen(f"the kernel of {place or 'this host'}", host=True)
