"""`python -m evercache`: the same as the command `evercache`."""

from __future__ import annotations

import sys

from evercache.ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
