"""Fuzzing: every parser of the library that reads what a server or a file says, fed with anything at all."""
