"""The passwords of a description: read from files or the environment, made where they are missing."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from evercache.errors import DescriptionError
from evercache.ops.deploy.description import ROLES, Description, Secret
from evercache.ops.files import write_private

__all__ = ["generate_passwords", "read_further_passwords", "read_passwords"]


def read_passwords(
    description: Description, folder: Path, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The password of each role; `folder` is that of the TOML file. No message repeats one."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for role in ROLES:
        secret: Secret = getattr(description.passwords, role)
        if secret.kind == "env":
            value, where = environment.get(secret.where, ""), f"the variable {secret.where} is not set"
        else:
            path = _path(secret, folder)
            lines = _lines(path)
            value = lines[0] if lines else ""
            where = f"there is no file {path}" if lines is None else f"{path} is empty"
        if not value:
            missing.append(f"{role}: {where}")
        found[role] = value
    if missing:
        raise DescriptionError(
            "passwords are missing: "
            + "; ".join(missing)
            + "; --generate-passwords makes those whose files are missing"
        )
    return found


def read_further_passwords(description: Description, folder: Path) -> dict[str, tuple[str, ...]]:
    """Passwords by which a role may log in as well: the further lines of its file, for a change in steps."""
    found = {}
    for role in ROLES:
        secret: Secret = getattr(description.passwords, role)
        lines = _lines(_path(secret, folder)) if secret.kind == "file" else None
        found[role] = tuple(line for line in (lines or [])[1:] if line)
    return found


def _path(secret: Secret, folder: Path) -> Path:
    return folder / Path(secret.where).expanduser()


def _lines(path: Path) -> list[str] | None:
    """None if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DescriptionError(f"{path} cannot be read: {getattr(error, 'strerror', 'no text')}") from None
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        raise DescriptionError(f"{path} can be read by others: run  chmod 600 {path}")
    return lines


def generate_passwords(description: Description, folder: Path) -> list[Path]:
    """Make a password for each `file:` that does not exist; what exists is left alone. Returns the new files."""
    made = []
    for role in ROLES:
        secret: Secret = getattr(description.passwords, role)
        path = _path(secret, folder)
        if secret.kind != "file" or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, secrets.token_urlsafe(32) + "\n")
        made.append(path)
    return made
