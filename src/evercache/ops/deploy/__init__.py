"""Deployment files from one description: read, refused where it cannot work, rendered, and written with care."""

from __future__ import annotations

from pathlib import Path

from evercache.ops.deploy.description import ROLES, Description
from evercache.ops.deploy.reading import parse, parse_file
from evercache.ops.deploy.render import render, url_of
from evercache.ops.deploy.schema import schema_text
from evercache.ops.deploy.secrets import generate_passwords, read_further_passwords, read_passwords
from evercache.ops.deploy.sound import VARIANTS, check, notes
from evercache.ops.deploy.writing import Change, changes, diff, write

__all__ = [
    "ROLES",
    "VARIANTS",
    "Change",
    "Description",
    "changes",
    "check",
    "diff",
    "example_text",
    "generate_passwords",
    "notes",
    "parse",
    "parse_file",
    "read_further_passwords",
    "read_passwords",
    "render",
    "schema_text",
    "url_of",
    "write",
]


def example_text() -> str:
    """A commented file to begin with: three hosts."""
    return (Path(__file__).parent / "example.toml").read_text(encoding="utf-8")
