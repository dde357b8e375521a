"""Other libraries on the servers of a cache. Each part needs an extra of its own."""
