"""`python -m tests.sim SEED`: run schedules; see docs/simulator.md."""

from tests.sim.cli import main

if __name__ == "__main__":  # the processes of the runner import this as well
    main()
