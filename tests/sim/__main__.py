"""`python -m tests.sim SEED`: run schedules; see docs/simulator.md."""

from tests.sim.cli import main

main()
