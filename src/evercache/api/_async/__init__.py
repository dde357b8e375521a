"""The methods for tasks; `tools/async_to_sync.py` makes those for threads of them."""
