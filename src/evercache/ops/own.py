"""Which of the deployments on this machine a URL leads to: its nodes have names then."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from evercache.errors import DeploymentError
from evercache.ops.config import DeploymentConfig, home_folder
from evercache.ops.local import LocalDeployment

__all__ = ["deployment_of"]


def deployment_of(url: str | None, home: Path | None = None) -> LocalDeployment | None:
    """The deployment that printed this URL; None for any other."""
    for folder in sorted(home_folder(home).absolute().glob("*/")) if url else ():
        with suppress(DeploymentError, OSError):
            config = DeploymentConfig.load(folder)
            if config is not None and config.url == url:
                return LocalDeployment.open(folder.name, home)
    return None
