"""The matrix of faults on real servers: what each does to the promises of the cache. `python -m tests.faults`."""
