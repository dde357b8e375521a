"""The measurements: each a module with `TITLE` and `run(scale)`."""
