"""Exit codes of the command line.

| code | meaning |
|---|---|
| 0 | done; `up`: it runs; `status`: everything is whole |
| 1 | any other failure; `status`: not whole; `render --check`: would change; `warm`: a call failed or was lost; |
|   | `drill`: a promise was broken |
| 2 | wrong usage, a bad URL or name, or a missing Python package |
| 3 | no deployment, or no node, of this name |
| 4 | no server program |
| 5 | a remembered port is taken by another program |
| 6 | the disk is full |
| 7 | started, or failed over, but not whole in time |
| 8 | `failover`, `drill`: it would do harm or could not work, and nothing was changed |
| 9 | `render`: files were changed since by somebody else, and nothing was written |
| 10 | `drill`, `demo`: no promise was broken, but the machine was too busy to judge one |
| 130 | interrupted by Ctrl-C |
"""

from __future__ import annotations

from evercache.errors import (
    ConfigurationError,
    DeploymentUnknown,
    DiskFull,
    DrillRefused,
    EvercacheError,
    FailoverRefused,
    FilesChanged,
    NotWhole,
    PortTaken,
    ServerMissing,
)
from evercache.ops.stalls import UNJUDGED

__all__ = ["INTERRUPTED", "UNJUDGED", "USAGE", "exit_code"]

USAGE = 2
INTERRUPTED = 130

_CODES: dict[type[EvercacheError], int] = {
    ConfigurationError: USAGE,
    DeploymentUnknown: 3,
    ServerMissing: 4,
    PortTaken: 5,
    DiskFull: 6,
    NotWhole: 7,
    FailoverRefused: 8,
    DrillRefused: 8,
    FilesChanged: 9,
}


def exit_code(error: EvercacheError) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), 1)
