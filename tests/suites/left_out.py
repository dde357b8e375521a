"""What is left out of other people's suites, each with the reason."""

from __future__ import annotations

__all__ = ["LEFT_OUT", "MEMORY_ONLY"]

LEFT_OUT: dict[str, str] = {}
MEMORY_ONLY: dict[str, str] = {}
