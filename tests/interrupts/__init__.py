"""Exceptions that signal handlers raise at random moments, in every operation, on real servers."""
