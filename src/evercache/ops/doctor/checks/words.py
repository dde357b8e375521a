"""How commands, sizes and times are written in findings."""

from __future__ import annotations

import shlex

from evercache.ops.doctor.facts import NodeFacts
from evercache.protocol.types import Address

__all__ = ["changed", "cli", "per_second", "quoted", "size", "users_kept"]


def cli(address: Address, command: str = "") -> str:
    """A command line for one server. The password is not in it: `VALKEYCLI_AUTH` in the environment has it."""
    where = f"-s {quoted(address.path)}" if address.path else f"-h {quoted(address.host)} -p {address.port}"
    return f"valkey-cli {where} {command}".rstrip()


def quoted(name: str | None) -> str:
    """What a server or a user has named, as one word of a shell: a command is copied into one."""
    return shlex.quote("".join(one if one.isprintable() else "?" for one in name or ""))


def changed(node: NodeFacts, *settings: str) -> str:
    """The command lines that change settings of a node, and keep them for its next start."""
    lines = [cli(node.address, f"CONFIG SET {setting}") for setting in settings]
    if node.info.get("config_file") != "":  # a server without a file has nowhere to keep them
        lines.append(cli(node.address, "CONFIG REWRITE"))
    return "\n".join(lines)


def users_kept(node: NodeFacts) -> str:
    """The command line that keeps changed users for the next start of a node; both where it is not seen which one
    the node needs, as the other one is refused and changes nothing.
    """
    file = node.config.get("aclfile")
    if file is None:
        return f"{cli(node.address, 'ACL SAVE')}\n{cli(node.address, 'CONFIG REWRITE')}"
    return cli(node.address, "ACL SAVE" if file else "CONFIG REWRITE")


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"


def per_second(rate: float) -> str:
    """Bytes a second, for people."""
    return f"{size(rate)}/s"
