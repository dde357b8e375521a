"""What lives as long as a cache does in one process: its state, its connections, its background."""
