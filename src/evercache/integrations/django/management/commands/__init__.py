"""Where Django looks for it."""
