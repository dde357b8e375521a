"""Loaded into the run of cachelib's suite: nothing to change there."""
