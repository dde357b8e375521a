"""A disk that is full: the doctor names it first, and what follows from it beneath it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.doctor_tools import Hall, findings, fired
from tests.servers import CliError, Server, wait_for

from evercache.ops.cli.doctor_show import doctor_as_tables
from evercache.ops.cli.show import console
from evercache.ops.doctor import examine, gather


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, where one can be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def _fill(node: Server, disk: Path) -> None:
    node.cli("CONFIG", "SET", "appendonly", "no")
    node.cli("CONFIG", "SET", "dir", str(disk))
    node.cli("CONFIG", "SET", "appendonly", "yes")
    wait_for(lambda: node.info("persistence")["aof_rewrite_in_progress"] == "0", 10)

    def full() -> bool:
        with contextlib.suppress(CliError):
            node.cli("SET", "filler", "x" * 400_000)
        return node.info("persistence")["aof_last_write_status"] == "err"

    wait_for(full, 20, "the disk to be full", 0.01)


def test_a_full_disk_comes_first_and_its_consequences_beneath(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was the fourth of five findings, after advice to change roles and passwords: the sentinels take the errors
    by which a server with a full disk answers PING for a wrong password, and replace it."""
    with Hall.open() as hall:
        node = hall.nodes[0]
        _fill(node, small_disk)
        others = {"one-master", "replicas-follow", "passwords", "named-master"}

        def replaced() -> bool:
            return bool(fired(gather(hall.url())) & others)

        wait_for(replaced, 40, "something to follow from it", 0.2)
        facts = gather(hall.url())
        results = examine(facts)
        # The sentinels were refused for long; that is no password.
        wrong = [text for name, text in findings(facts) if name == "passwords"]
        assert wrong == []
        own = {result.check.name: result.own for result in results if result.own}
        assert set(own) == {"saves-and-clocks"}, findings(facts)
        (cause,) = own["saves-and-clocks"]
        assert cause.mend.startswith(f"make room on the disk of {small_disk}")
        console().print(doctor_as_tables(facts, results))
        lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
        headings = [line[2] for line in lines if line[0] in "●▲○"]
        assert headings == ["saves-and-clocks"]
        consequences = [line for line in lines if line[0] == "so"]
        assert consequences, "what follows is still told"
