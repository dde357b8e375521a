"""Every wrong change that the simulator must find, by name."""

from __future__ import annotations

from tests.sim.mutation import Mutation, hunt
from tests.sim.wrong_blocking import BLOCKING
from tests.sim.wrong_changes import CHANGES
from tests.sim.wrong_entries import ENTRIES
from tests.sim.wrong_hits import HITS
from tests.sim.wrong_oracles import ORACLES
from tests.sim.wrong_rules import RULES
from tests.sim.wrong_settings import SETTINGS
from tests.sim.wrong_slips import SLIPS
from tests.sim.wrong_world import WORLD

__all__ = ["MUTATIONS", "Mutation", "hunt"]

MUTATIONS: dict[str, Mutation] = {
    m.name.replace(" ", "-"): m
    for m in (*RULES, *SLIPS, *ENTRIES, *HITS, *CHANGES, *SETTINGS, *ORACLES, *WORLD, *BLOCKING)
}
