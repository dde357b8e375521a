"""Facts in a file: saved where they can be seen, examined elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from evercache.errors import ConfigurationError
from evercache.ops.doctor.facts import FORMAT, Facts
from evercache.ops.files import write_private

__all__ = ["dump", "load", "merged", "read", "save"]


class _Head(msgspec.Struct):
    format: int


def dump(facts: Facts) -> str:
    """The facts as JSON, indented for people. It holds no password."""
    return msgspec.json.format(msgspec.json.encode(facts), indent=1).decode() + "\n"


def save(facts: Facts, path: Path) -> None:
    """Write them, readable by the owner only: addresses and settings are nobody else's matter."""
    try:
        write_private(path, dump(facts))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}): give another file") from error


def load(path: Path) -> Facts:
    """Read what `save` wrote; `ConfigurationError` says what is wrong with the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror})") from error
    return read(data, path)


def read(data: bytes, name: object) -> Facts:
    """What a file of this name holds."""
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            raise ConfigurationError(f"{name} was written by another version of evercache: examine it by that one")
        return msgspec.json.decode(data, type=Facts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{name} holds no facts of `evercache doctor --save` ({error})") from error


def merged(several: Sequence[Facts]) -> Facts:
    """The first, with the hosts that all of them saw: one file from a shell on each host."""
    hosts = {(host.name, host.addresses): host for facts in several for host in facts.hosts}
    return replace(several[0], hosts=tuple(hosts.values()))
