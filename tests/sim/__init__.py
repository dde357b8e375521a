"""The deterministic simulator: the real client on a simulated network, clock and event loop (docs/simulator.md)."""
