"""Filling a cache before visitors come: what is called, how much at a time, and what it costs the site."""
