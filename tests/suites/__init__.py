"""Other people's test suites, run unchanged against this library: `make suites`."""
