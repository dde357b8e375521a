"""What a shell on a host shows, read from trees of files as a machine has them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.doctor_facts import info, sentinel, sound

from evercache.ops.doctor import Facts
from evercache.ops.doctor.facts import HostFacts
from evercache.ops.doctor.programs import Machine, program_of, programs_of_file, seconds, systemd_program
from evercache.ops.doctor.shell import directives_of, look, unwritable, with_host

CLUSTER = "cpu:/\n0::/system.slice/valkey-server.service\n"


def machine(tmp_path: Path) -> Machine:
    """A machine with a kernel as it should not be, and no process."""
    found = Machine(tmp_path / "proc", tmp_path / "sys")
    (found.proc / "sys/vm").mkdir(parents=True)
    (found.proc / "sys/vm/overcommit_memory").write_text("0\n")
    (found.proc / "meminfo").write_text("MemTotal:  8000000 kB\nSwapTotal:  2097148 kB\nSwapFree: 12 kB\n")
    (found.sys / "kernel/mm/transparent_hugepage").mkdir(parents=True)
    (found.sys / "kernel/mm/transparent_hugepage/enabled").write_text("[always] madvise never\n")
    return found


def run(
    found: Machine, pid: int, command: str, parent: int, *, folder: Path | None = None, cgroup: str = ""
) -> None:
    """A process of that machine."""
    at = found.proc / str(pid)
    at.mkdir()
    (at / "cmdline").write_bytes(b"\0".join(part.encode() for part in command.split()) + b"\0")
    (at / "status").write_text(
        f"Name:\tx\nPPid:\t{parent}\nUid:\t1000\t999\t999\t999\nGid:\t9\t9\t9\t9\nGroups:\t7 8\n"
    )
    (at / "cgroup").write_text(cgroup)
    if folder is not None:
        (at / "cwd").symlink_to(folder)


def on_loopback(facts: Facts) -> Facts:
    """The first host of the sound deployment is this machine."""
    return replace(facts, hosts=(), resolved={"10.0.0.1": ("127.0.0.1",)})


def supervised(tmp_path: Path, text: str, more: str = "") -> Path:
    folder = tmp_path / "etc"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "supervisord.conf").write_text(f"[supervisord]\nlogfile=x\n[include]\nfiles = conf.d/*.conf\n{text}")
    (folder / "conf.d" / "more.conf").write_text(more)
    return folder / "supervisord.conf"


def test_the_kernel_of_a_host(tmp_path: Path) -> None:
    host = look(on_loopback(sound()), machine(tmp_path))
    assert host.addresses == ("10.0.0.1",)
    assert (host.overcommit, host.huge_pages, host.swap_bytes) == ("0", "always", 2097148 * 1024)
    assert host.hidden == {}


def test_what_cannot_be_read_of_the_kernel_is_hidden(tmp_path: Path) -> None:
    found = machine(tmp_path)
    (found.proc / "sys/vm/overcommit_memory").unlink()
    host = look(on_loopback(sound()), found)
    assert host.overcommit == ""
    assert "No such file" in host.hidden["overcommit"]


def test_a_process_of_another_world_is_not_taken_for_the_server(tmp_path: Path) -> None:
    """In a container the process ids are others: 100 is somebody else here."""
    found = machine(tmp_path)
    run(found, 100, "/bin/bash", 1)
    process = look(on_loopback(sound()), found).processes[0]
    assert "another one" in process.hidden["program"]
    assert "another one" in process.hidden["config_file"]


def test_a_server_under_supervisor(tmp_path: Path) -> None:
    found = machine(tmp_path)
    file = tmp_path / "valkey.conf"
    file.write_text("requirepass hunter2\nDaemonize yes\nsave 900 1\n")
    config = supervised(tmp_path, f"[program:cache]\ncommand=valkey-server {file}\nstopwaitsecs=33 ; seconds\n")
    run(found, 1, "/sbin/init", 0)
    run(found, 50, f"/usr/bin/python3 /usr/bin/supervisord -n -c {config}", 1, folder=tmp_path)
    run(found, 100, "valkey-server 127.0.0.1:6379", 50)
    process = look(info(0, config_file=str(file))(on_loopback(sound())), found).processes[0]
    assert process.program is not None
    assert (process.program.name, process.program.stop_timeout, process.program.autorestart) == ("cache", 33, True)
    assert process.program.source == str(config)
    assert process.directives == (("daemonize", "yes"), ("save", "900 1"))
    assert not process.daemonized, "it is a child of Supervisor, whatever its file says"
    assert "hunter2" not in repr(process)
    assert (
        process.unwritable == f"{file} (-rw-r--r--, user {os.getuid()}) cannot be written by the server's user 999"
    )


def test_a_server_that_left_its_supervisor_is_found_by_its_file(tmp_path: Path) -> None:
    found = machine(tmp_path)
    more = "[program:cache]\ncommand=redis-server valkey.conf\ndirectory=/srv/cache\nautorestart=false\n"
    config = supervised(tmp_path, "", more)
    run(found, 1, "/sbin/init", 0)
    run(found, 50, f"python3 -m supervisor.supervisord -c {config.name}", 1, folder=config.parent)
    run(found, 100, "valkey-server 127.0.0.1:6379", 1)
    program = program_of(found, 100, "/srv/cache/valkey.conf")
    assert not isinstance(program, str)
    assert not program.autorestart
    file = tmp_path / "valkey.conf"
    file.write_text("daemonize yes\n")
    assert look(info(0, config_file=str(file))(on_loopback(sound())), found).processes[0].daemonized
    assert program.source.endswith("conf.d/more.conf")


def test_a_script_that_sleeps_is_a_restart_delay(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\nsleep 7.5\nexec valkey-server server.conf\n")
    text = f"[program:cache]\ncommand=/bin/sh run.sh\ndirectory={tmp_path}\nautorestart=unexpected\n"
    file = supervised(tmp_path, text)
    (program,) = list(programs_of_file(file, Path("/"), f"{tmp_path}/server.conf"))[:1]
    assert (program.restart_delay, program.stop_timeout, program.stop_signal) == (7.5, 10.0, "TERM")
    assert list(programs_of_file(file, Path("/"), "/elsewhere/server.conf")) == []


@pytest.mark.parametrize(
    ("command", "said"), [("runsv valkey", "its parent is runsv"), ("/usr/bin/containerd-shim", "containerd-shim")]
)
def test_a_parent_that_is_not_known_is_said_to_be_so(command: str, said: str, tmp_path: Path) -> None:
    found = machine(tmp_path)
    run(found, 40, command, 1)
    run(found, 100, "valkey-server 127.0.0.1:6379", 40)
    program = program_of(found, 100, "/etc/valkey.conf")
    assert isinstance(program, str)
    assert said in program


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    found = machine(tmp_path)
    run(found, 100, "valkey-server 127.0.0.1:6379", 1, cgroup=CLUSTER)
    assert found.unit(100) == "valkey-server.service"
    text = "Restart=on-failure\nRestartUSec=100ms\nTimeoutStopUSec=1min 30s\nKillSignal=15\nFragmentPath=/lib/x\n"
    program = systemd_program("valkey-server.service", text)
    assert program is not None
    assert (program.autorestart, program.restart_delay, program.stop_timeout) == (True, 0.1, 90.0)
    assert systemd_program("x", "Restart=no\n") is not None
    assert systemd_program("x", "") is None
    assert seconds("infinity") > 1e6
    assert seconds("1h 2min 3s 5ms") == pytest.approx(3723.005)


def test_the_settings_of_a_file_are_kept_without_secrets() -> None:
    text = """
# requirepass comment
requirepass hunter2
masterauth hunter3
user default on #abc ~* +@all
daemonize yes
sentinel monitor shop 10.0.0.1 6379 2
sentinel auth-pass shop hunter4
SENTINEL primary-reboot-down-after-period shop 9000
sentinel sentinel-pass hunter5
dir "/var/lib/the cache"
"""
    assert directives_of(text) == (
        ("daemonize", "yes"),
        ("sentinel", "monitor shop 10.0.0.1 6379 2"),
        ("sentinel", "primary-reboot-down-after-period shop 9000"),
        ("dir", "/var/lib/the cache"),
    )


def test_who_can_write_a_file(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    file.write_text("")
    user, group = file.stat().st_uid, file.stat().st_gid
    other = user + 12345
    tmp_path.chmod(0o755)
    file.chmod(0o644)
    assert unwritable(file, 0, []) == ""
    assert "cannot be written by the server's user" in unwritable(file, other, [])
    file.chmod(0o666)
    assert f"{tmp_path} (drwxr-xr-x" in unwritable(file, other, []), "it writes beside it and renames"
    tmp_path.chmod(0o775)
    assert unwritable(file, other, [group]) == ""
    if user:
        assert unwritable(file, user, []) == ""
    assert "does not exist" in unwritable(tmp_path / "none" / "server.conf", other, [])


def test_a_second_look_replaces_the_first(tmp_path: Path) -> None:
    facts = on_loopback(sound())
    once = with_host(facts, machine(tmp_path))
    (tmp_path / "proc/sys/vm/overcommit_memory").write_text("1")
    twice = with_host(
        replace(once, hosts=(*once.hosts, HostFacts("another"))), Machine(tmp_path / "proc", tmp_path / "sys")
    )
    assert [host.overcommit for host in twice.hosts] == ["", "1"]
    assert with_host(sentinel(0, info={"process_id": ""})(facts), machine_again(tmp_path)).hosts


def machine_again(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "proc", tmp_path / "sys")
