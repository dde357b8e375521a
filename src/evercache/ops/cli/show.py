"""How a survey or a bench looks: as tables for people, as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evercache.ops.bench import Bench, Timing
from evercache.ops.survey import NodeReport, SentinelReport, Survey
from evercache.protocol.types import Address

__all__ = ["as_json", "as_tables", "bench_as_json", "bench_as_table", "console"]


def console() -> Console:
    """Standard output; wide where it is no terminal, so that nothing is cut off in a file or a pipe."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=160)


def as_tables(name: str, seen: Survey) -> RenderableType:
    """The nodes, the sentinels, and a line that says how it stands."""
    nodes = _table(f"{name}: nodes")
    nodes.add_column("node", no_wrap=True)
    for column in ("address", "state", "role", "in sync"):
        nodes.add_column(column, overflow="fold")
    for column in ("lag", "memory", "keys", "ops/s"):
        nodes.add_column(column, justify="right", overflow="fold")
    nodes.add_column("used for", overflow="fold")
    for node in seen.nodes:
        nodes.add_row(*_node_row(node))
    parts: list[RenderableType] = [nodes]
    if seen.sentinels:
        sentinels = _table(f"{name}: sentinels")
        for column in ("sentinel", "address", "state", "names as master", "epoch", "sees"):
            sentinels.add_column(column)
        for one in seen.sentinels:
            sentinels.add_row(*_sentinel_row(one, seen))
        parts.append(sentinels)
    if seen.whole and seen.strains:
        parts.append(Text("everything runs and is in sync, but:", style="bold yellow"))
    elif seen.whole:
        parts.append(Text("whole: everything runs and is in sync", style="green"))
    else:
        parts.append(Text("not whole:", style="bold yellow"))
        parts += [Text(f"  {problem}", style="yellow") for problem in seen.problems]
    parts += [Text(f"  {strain}", style="yellow") for strain in seen.strains]
    return Group(*parts)


def _table(title: str) -> Table:
    # Narrow: ten columns have to fit into 80 characters.
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))


def _place(address: Address) -> str:
    """Of an address on this machine the port only."""
    return f":{address.port}" if address.host == "127.0.0.1" else str(address)


def _node_row(node: NodeReport) -> list[Text]:
    known = bool(node.role)
    used = node.use if node.use != "nothing" else f"nothing: {node.reason or node.detail}"
    cells = [
        node.name,
        _place(node.address),
        node.state,
        node.role or "?",
        ("yes" if node.in_sync else "no") if known else "?",
        _lag(node),
        _bytes(node.memory) if known else "",
        f"{node.keys:,}" if known else "",
        f"{node.ops:,}" if known else "",
        used,
    ]
    style = "red" if node.use == "nothing" else "bold" if node.role == "master" else ""
    # Text, not markup: what a server says is never taken for markup.
    return [Text(cell, style=style) for cell in cells]


def _sentinel_row(one: SentinelReport, seen: Survey) -> list[Text]:
    master = next((node.name for node in seen.nodes if node.address == one.master), str(one.master or "?"))
    sees = f"{one.healthy_replicas} replicas, {one.healthy_sentinels} sentinels"
    cells = [
        one.name,
        _place(one.address),
        one.state,
        master if one.master else "?",
        str(one.epoch) if one.master else "?",
        sees if one.master else one.detail,
    ]
    style = "" if one.state == "up" and one.master == seen.master else "red"
    return [Text(cell, style=style) for cell in cells]


def _lag(node: NodeReport) -> str:
    if node.role != "replica":
        return ""
    heard = "" if node.lag_seconds is None or node.lag_seconds < 0 else f", {node.lag_seconds:.0f} s"
    return ("?" if node.lag_bytes is None else _bytes(node.lag_bytes)) + heard


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def as_json(name: str, seen: Survey) -> str:
    """One line of JSON. It holds no password. Sizes in bytes, times in seconds."""
    document: dict[str, Any] = {
        "name": name,
        "whole": seen.whole,
        "master": str(seen.master) if seen.master else None,
        "problems": list(seen.problems),
        "strains": list(seen.strains),
        "nodes": [
            {
                "name": node.name,
                "address": str(node.address),
                "state": node.state,
                "role": node.role or None,
                "in_sync": node.in_sync,
                "lag_bytes": node.lag_bytes,
                "heard_seconds_ago": node.lag_seconds,
                "memory_bytes": node.memory,
                "keys": node.keys,
                "ops_per_second": node.ops,
                "version": node.version or None,
                "used_for": node.use,
                "reason": node.reason or None,
            }
            for node in seen.nodes
        ],
        "sentinels": [
            {
                "name": one.name,
                "address": str(one.address),
                "state": one.state,
                "master": str(one.master) if one.master else None,
                "epoch": one.epoch if one.master else None,
                "flags": one.flags or None,
                "healthy_replicas": one.healthy_replicas,
                "healthy_sentinels": one.healthy_sentinels,
                "detail": one.detail or None,
            }
            for one in seen.sentinels
        ],
    }
    return json.dumps(document)


def bench_as_table(measured: Bench) -> RenderableType:
    """The timings, in milliseconds, beside the shortest round trip."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("operation", overflow="fold")
    for column in ("median", "95 %", "longest", "x trip", "runs"):
        table.add_column(column, justify="right", no_wrap=True)
    trip = min(one.median for one in measured.trips)
    for one in measured.trips:
        table.add_row(*_timing_row(one, trip), style="dim")
    for one in measured.operations:
        table.add_row(*_timing_row(one, trip), style="bold" if one.name == "hit" else "")
    share = measured.replica_hits / max(1, measured.hits)
    where = f"{share:.0%} of the hits were answered by replicas" if share else "the master answered the hits"
    return Group(table, Text(f"{where}; a value is a dict of 200 bytes; x trip: times the shortest trip"))


def _timing_row(one: Timing, trip: float) -> list[str]:
    times = (f"{seconds * 1e3:.3f} ms" for seconds in (one.median, one.p95, one.longest))
    return [one.name, *times, f"{one.median / trip:.1f}", f"{one.runs:,}"]


def bench_as_json(measured: Bench) -> str:
    """One line of JSON; times in seconds."""
    return json.dumps(asdict(measured))
