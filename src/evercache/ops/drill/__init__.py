"""A drill: faults done to servers of one's own, step by step, while clients read through evercache; and a report.

`plan` has the steps as values, `runner` does them, `client` is the load, `measure` and `verdict` are pure, `page`
and `charts` draw. Whatever ends a drill, everything is put back: by the drill itself, or by its `guardian`.
"""

from __future__ import annotations

from evercache.ops.drill.document import Report
from evercache.ops.drill.guardian import restore
from evercache.ops.drill.interrupts import Left
from evercache.ops.drill.page import files, headline
from evercache.ops.drill.plan import STEPS, Options, Step
from evercache.ops.drill.runner import Answer, Drill

__all__ = ["STEPS", "Answer", "Drill", "Left", "Options", "Report", "Step", "files", "headline", "restore"]
