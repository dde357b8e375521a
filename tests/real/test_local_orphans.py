"""What runs on after its folder was removed is found, and ended by the command that ends deployments."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.servers import wait_for

from evercache.ops.cli import main
from evercache.ops.local import LocalDeployment
from evercache.ops.supervision import process_command, strays


def test_what_outlives_its_folder_is_listed_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six servers and their Supervisor ran on, and `down --purge` knew no such deployment."""
    monkeypatch.setenv("EVERCACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    deployment = LocalDeployment.open("lost", tmp_path)
    try:
        deployment.up()
        assert main(["list"]) == 0
        assert f"lost  runs  {tmp_path / 'lost'}" in capsys.readouterr().out
        ids = strays(tmp_path)["lost"]
        assert len(ids) == 7
        shutil.rmtree(tmp_path / "lost")
        assert main(["list"]) == 1
        assert "its folder is gone" in capsys.readouterr().out
        assert main(["down", "--name", "lost", "--purge"]) == 0
        wait_for(lambda: not any(process_command(pid) for pid in ids), 15, "everything to end")
        assert main(["list"]) == 0
    finally:
        for pid in strays(tmp_path).get("lost", []):
            subprocess.run(["kill", "-9", str(pid)], check=False)


def test_a_purge_leaves_no_supervisor_that_hears_nothing(tmp_path: Path) -> None:
    deployment = LocalDeployment.open("deaf", tmp_path)
    try:
        deployment.up()
        ids = strays(tmp_path)["deaf"]
        (tmp_path / "deaf" / "supervisor.sock").unlink(missing_ok=True)
        deployment.down(purge=True)
        wait_for(lambda: not any(process_command(pid) for pid in ids), 15, "everything to end")
    finally:
        for pid in strays(tmp_path).get("deaf", []):
            subprocess.run(["kill", "-9", str(pid)], check=False)


def test_ctrl_c_during_the_imports_shows_no_traceback() -> None:
    code = (
        "import sys, time, types, evercache.ops.cli\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'evercache.ops.cli.commands':\n"
        "            print('importing', flush=True); time.sleep(30)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "sys.exit(evercache.ops.cli.main(['list']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "importing"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "evercache: interrupted\n")
