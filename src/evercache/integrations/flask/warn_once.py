"""What is said once, with what to do about it."""

from __future__ import annotations

from evercache.observe.labelled import labelled

__all__ = ["logger", "tell_once"]

logger = labelled("evercache.flask")


def tell_once(said: set[str], topic: str, message: str, *values: object) -> None:
    """A warning in the log, unless this topic was told of already."""
    if topic not in said:
        said.add(topic)
        logger.warning(message, *values)
