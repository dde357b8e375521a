"""Every parser. A new one is a module here, and a line below."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    entries,
    files,
    keys,
    nodes,
    replies,
    sentinels,
    settings,
    urls,
    wires,
)

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (entries, wires, replies, sentinels, nodes, keys, urls, files, settings)
    for target in module.TARGETS
}
