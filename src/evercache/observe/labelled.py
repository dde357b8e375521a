"""The logger of what is no event: a setting, a decorated function."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

__all__ = ["labelled"]


class _Labelled(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"evercache: {msg}", kwargs


def labelled(name: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger whose lines begin with the name of the library, as those of events do (`EventHub`)."""
    return _Labelled(logging.getLogger(name), {})
