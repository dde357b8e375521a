"""Real servers for tests: single ones, deployments with replicas and sentinels, slow links."""

from __future__ import annotations

from tests.deployment import Deployment
from tests.proxy import DelayProxy
from tests.server import CliError, Server, ServerFailed, find_server, free_port, release_port, wait_for

__all__ = [
    "CliError",
    "DelayProxy",
    "Deployment",
    "Server",
    "ServerFailed",
    "find_server",
    "free_port",
    "release_port",
    "wait_for",
]
