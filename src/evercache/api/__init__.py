"""The methods that users call: those for tasks are written, those for threads are generated."""
