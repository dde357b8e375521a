"""`python -m tests.mutants`: see `cli.py`."""

import signal
import sys

from tests.mutants.cli import main

if __name__ == "__main__":
    # Whoever ends it leaves no copy behind, also where it runs in the background of a shell, which ignores Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
