"""An application of a Django site, for tests."""
