"""What is wrong with a deployment, before it matters: facts, gathered once, and checks that are functions."""

from __future__ import annotations

from evercache.ops.doctor.examination import examine, registered, verdict
from evercache.ops.doctor.facts import Facts
from evercache.ops.doctor.gather import gather
from evercache.ops.doctor.registry import Check, Finding, Result, Severity
from evercache.ops.doctor.snapshot import load, merged, save

__all__ = [
    "Check",
    "Facts",
    "Finding",
    "Result",
    "Severity",
    "examine",
    "gather",
    "load",
    "merged",
    "registered",
    "save",
    "verdict",
]
