"""Every decision of the cache: pure functions and small state machines, with no socket, clock or thread."""
