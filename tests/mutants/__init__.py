"""Random small faults in the library, and which of the tests notice them; see `cli.py` and CONTRIBUTING.md."""
