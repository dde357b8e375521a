"""Descriptions for the tests of `evercache render`."""

from __future__ import annotations

import copy
from typing import Any

from evercache.ops.deploy import ROLES, Description, parse

__all__ = ["PASSWORDS", "changed", "described", "three"]

#: One for each role; none is a part of another.
PASSWORDS = {role: f"{role[::-1]}-0123456789" for role in ROLES}


def three(**more: Any) -> dict[str, Any]:
    """A sound description of three hosts; `more` are tables to add to, or values to put in place."""
    values: dict[str, Any] = {
        "name": "shop",
        "server": {"memory": "2gb"},
        "passwords": {role: f"env:CACHE_{role.upper()}" for role in ROLES},
        "hosts": [{"name": f"cache-{n}", "address": f"10.0.0.{n}"} for n in (1, 2, 3)],
    }
    for name, value in more.items():
        table = values.get(name, {})
        values[name] = {**table, **value} if isinstance(value, dict) and isinstance(table, dict) else value
    return copy.deepcopy(values)


def described(**more: Any) -> Description:
    return parse(three(**more))


def changed(values: dict[str, Any], *hosts: dict[str, Any]) -> dict[str, Any]:
    """The same with settings of the hosts changed, one after the other."""
    for host, settings in zip(values["hosts"], hosts, strict=False):
        host.update(settings)
    return values
