"""Whom to ask for the state of the deployment behind a URL."""

from __future__ import annotations

from evercache.errors import ConfigurationError
from evercache.ops.survey import Targets
from evercache.url import parse_url

__all__ = ["targets_of"]


def targets_of(url: str) -> Targets:
    """Every server that the URL names; with sentinels also those that they know.

    Raises `URLError` for a bad URL, `ConfigurationError` for `memory://`.
    """
    place = parse_url(url)
    if place.kind == "memory":
        raise ConfigurationError("memory:// has no servers to look at: give the URL of a deployment")
    nodes = dict.fromkeys((*place.nodes, *place.replicas))
    return Targets(
        {str(address): address for address in nodes},
        place.node_options,
        {str(address): address for address in place.sentinels},
        place.sentinel_options,
        place.service,
        discover=place.kind == "sentinel",
    )
