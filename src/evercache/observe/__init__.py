"""What a cache tells of itself: counters, and a log that says each thing once."""

from evercache.observe.counters import Counters
from evercache.observe.log import StateLog

__all__ = ["Counters", "StateLog"]
