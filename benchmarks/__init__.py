"""Measurements on real servers; each is run by `python -m benchmarks.<name>` and described in README.md."""
