"""What a cache tells of itself: counters, and events that are told when something changes."""

from evercache.observe import events
from evercache.observe.counters import Counters
from evercache.observe.event import Begins, Ends, Event, Occasion
from evercache.observe.hub import Emit, EventHub
from evercache.observe.subscribers import Subscribers

__all__ = ["Begins", "Counters", "Emit", "Ends", "Event", "EventHub", "Occasion", "Subscribers", "events"]
