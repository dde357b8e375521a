"""The passwords of a description: read from files or the environment, made where they are missing."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from evercache.errors import DescriptionError
from evercache.ops.config import write_private
from evercache.ops.deploy.description import ROLES, Description, Secret

__all__ = ["generate_passwords", "read_passwords"]


def read_passwords(
    description: Description, folder: Path, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The password of each role; `folder` is that of the TOML file. No message repeats one."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for role in ROLES:
        secret: Secret = getattr(description.passwords, role)
        if secret.kind == "env":
            value = environment.get(secret.where, "")
            if not value:
                missing.append(f"{role}: the variable {secret.where} is not set")
        else:
            path = folder / Path(secret.where).expanduser()
            try:
                value = path.read_text(encoding="utf-8").strip("\r\n")
                mode = path.stat().st_mode
            except FileNotFoundError:
                missing.append(f"{role}: there is no file {path}")
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise DescriptionError(f"{path} cannot be read: {getattr(error, 'strerror', 'no text')}") from None
            if mode & (stat.S_IRGRP | stat.S_IROTH):
                raise DescriptionError(f"{path} can be read by others: run  chmod 600 {path}")
            if not value:
                missing.append(f"{role}: {path} is empty")
        found[role] = value
    if missing:
        raise DescriptionError(
            "passwords are missing: "
            + "; ".join(missing)
            + "; --generate-passwords makes those whose files are missing"
        )
    return found


def generate_passwords(description: Description, folder: Path) -> list[Path]:
    """Make a password for each `file:` that does not exist; what exists is left alone. Returns the new files."""
    made = []
    for role in ROLES:
        secret: Secret = getattr(description.passwords, role)
        path = folder / Path(secret.where).expanduser()
        if secret.kind != "file" or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, secrets.token_urlsafe(32) + "\n")
        made.append(path)
    return made
