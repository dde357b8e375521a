"""Wrong changes."""
MUTATIONS = {}
