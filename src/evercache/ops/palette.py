"""The colours of what is drawn: of the demo's picture and the drill's report."""

from __future__ import annotations

__all__ = ["BAND", "COMPUTED", "ERROR", "GOOD", "GRID", "HIT", "INK", "SOFT"]

INK, SOFT, GRID = "#17212b", "#64748b", "#e5eaf1"
HIT, COMPUTED, ERROR, GOOD, BAND = "#2563eb", "#93a4bd", "#dc2626", "#059669", "#f59e0b"
