"""The asynchronous text; `tools/async_to_sync.py` makes the blocking twin of it."""
