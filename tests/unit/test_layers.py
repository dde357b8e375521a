"""The check of layers in `make lint`: it fails when somebody imports upwards, or two modules import each other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports_command as main; main(['--no-cache'])"
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("protocol/lease.py", "from evercache.engine.state import State", "imports point downwards only"),
        ("client/serving.py", "from evercache.ops.doctor import gather", "imports point downwards only"),
        ("protocol/types.py", "import evercache.protocol.replies", "no two modules import each other"),
    ],
)
def test_a_planted_import_fails(tmp_path: Path, module: str, line: str, broken: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / "src" / "evercache" / module
    planted.write_text(planted.read_text() + f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout
    assert f"{broken} BROKEN" in done.stdout


def test_the_package_keeps_the_layers() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
