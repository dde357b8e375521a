"""`flask cache`: status, doctor, warming and clearing of the caches of an application."""
