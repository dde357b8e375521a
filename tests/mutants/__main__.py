"""`python -m tests.mutants`: see `cli.py`."""

import sys

from tests.mutants.cli import main

if __name__ == "__main__":
    sys.exit(main())
