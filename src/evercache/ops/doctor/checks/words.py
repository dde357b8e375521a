"""How commands, sizes and times are written in findings."""

from __future__ import annotations

from evercache.wire.types import Address

__all__ = ["cli", "per_second", "size"]


def cli(address: Address, command: str = "") -> str:
    """A command line for one server. The password is not in it: `VALKEYCLI_AUTH` in the environment has it."""
    where = f"-s {address.path}" if address.path else f"-h {address.host} -p {address.port}"
    return f"valkey-cli {where} {command}".rstrip()


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
