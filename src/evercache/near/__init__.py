"""The tiers inside the process: near (fresh entries for a moment) and gutter (while no server answers)."""

from evercache.near.copies import copier
from evercache.near.gutter import Gutter
from evercache.near.near import Near, NearEntry

__all__ = ["Gutter", "Near", "NearEntry", "copier"]
