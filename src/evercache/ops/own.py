"""Which of the deployments on this machine a URL leads to: its nodes have names then."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evercache.errors import DeploymentError
from evercache.ops.config import DeploymentConfig, home_folder
from evercache.ops.local import LocalDeployment
from evercache.ops.supervision import Supervision, strays

__all__ = ["Listed", "deployment_of", "listed"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A deployment on this machine, or what is left of one."""

    name: str
    folder: Path
    running: bool
    #: Processes of a deployment whose folder is gone.
    orphans: tuple[int, ...] = ()


def listed(home: Path | None = None) -> list[Listed]:
    """All deployments below the home folder, by name, and the processes of those that are gone."""
    root = home_folder(home).absolute()
    found = []
    names = {folder.name for folder in root.glob("*/") if (folder / "deployment.json").exists()}
    for name in sorted({*names, *(name for name in strays(root) if name not in names)}):
        if name in names:
            folder = root / name
            found.append(Listed(name, folder, Supervision(folder, name).running()))
        else:
            found.append(Listed(name, root / name, True, tuple(strays(root)[name])))
    return found


def deployment_of(url: str | None, home: Path | None = None) -> LocalDeployment | None:
    """The deployment that printed this URL; None for any other."""
    for folder in sorted(home_folder(home).absolute().glob("*/")) if url else ():
        with suppress(DeploymentError, OSError):
            config = DeploymentConfig.load(folder)
            if config is not None and config.url == url:
                return LocalDeployment.open(folder.name, home)
    return None
