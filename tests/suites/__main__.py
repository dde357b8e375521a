"""`python -m tests.suites [cachelib|flask ...] [--on memory|standalone|sentinel ...]`."""

import sys

from tests.suites.runner import main

sys.exit(main(sys.argv[1:]))
