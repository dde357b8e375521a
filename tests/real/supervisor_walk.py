"""For the walk through docs/supervisor.md: its machines are folders of this one, its addresses are loopback ones.

What is put in the place of what, in its commands and in the files of the machines, and nothing else:

- `10.0.0.N` by `127.0.0.N`, ports by free ones, the server by that of the tests;
- `/etc`, `/var/lib/evercache` and `/proc/sysrq-trigger` by a folder of the machine;
- `scp` copies to the home folder of a machine; `supervisorctl` asks the Supervisor of the machine, which Debian
  would have started; `apt-get`, `service` and `update-rc.d` note down that they were called, `sysctl` as well.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from shlex import quote

from tests.real.rendered import VERSIONS, Rendered, plain_path
from tests.servers import free_port

from evercache.ops import deploy

__all__ = ["PAGE", "Block", "Walk", "blocks", "outputs", "section", "shapes"]

PAGE = (Path(__file__).parents[2] / "docs" / "supervisor.md").read_text(encoding="utf-8")

_SHIM = """\
#!/bin/sh
echo "$(basename "$0") $*" >> "$HOME/called"
"""
_SCP = """\
#!/bin/sh
test "$1" = -r && test "$#" = 3 || exit 2
number="${3##*.}"
exec cp -r "$2" "$MACHINES/cache-${number%:}/root/"
"""
#: As Debian has it, where it matters here.
_SUPERVISOR = """\
[unix_http_server]
file={run}/supervisor.sock
chmod=0700
[supervisord]
logfile={run}/supervisord.log
pidfile={run}/supervisord.pid
childlogdir={run}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{run}/supervisor.sock
[include]
files = {etc}/supervisor/conf.d/*.conf
"""


class Block(tuple[str, str]):
    """Where, and the lines."""

    @property
    def where(self) -> str:
        return self[0]

    @property
    def lines(self) -> list[str]:
        return self[1].splitlines()


def section(title: str) -> str:
    """The text below a heading, up to the next one of whatever level."""
    (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", _without_comments(PAGE), re.M | re.S)
    return found.replace("\0", "#")


def _without_comments(text: str) -> str:
    """Comments within blocks are no headings."""
    return re.sub(r"^```.*?^```$", lambda found: found[0].replace("\n#", "\n\0"), text, flags=re.M | re.S)


def blocks(text: str) -> list[Block]:
    """The commands, each with the place that its first line names."""
    found = re.findall(r"^```sh\n# (?:on|in) (.*?)\n(.*?)^```$", text, re.M | re.S)
    assert len(found) == text.count("```sh\n")
    return [Block(one) for one in found]


def outputs(text: str) -> list[str]:
    """What the page says that one sees."""
    return re.findall(r"^```text\n(.*?)^```$", text, re.M | re.S)


def shapes(text: str) -> set[str]:
    """Its lines without what differs from run to run: addresses, sizes, times, the order of the columns' blanks."""
    text = re.sub(r"^[─ ]+$", "", text, flags=re.M)
    text = re.sub(r"(?:\d+\.\d+\.\d+\.\d+|(?<= )):\d+", "A", text)
    text = re.sub(r"\d[\d.,:]*( [KM]iB| B\b)?", "N", text)
    return {" ".join(line.split()) for line in text.splitlines() if line.strip()}


class Walk(Rendered):
    """The machines of the page, and whoever sets them up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "rendered"
        self.machines = folder / "m"
        (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
        name, version = VERSIONS["valkey"]
        binary = plain_path(folder, "valkey")
        text = re.sub(r'^version = ".*"$', f'version = "{version}"\nbinary = "{binary}"', text, flags=re.M)
        assert f'kind = "{name}"' in text
        text = text.replace("10.0.0.", "127.0.0.") + (
            f"\n[ports]\nnode = {free_port()}\nsentinel = {free_port()}\n"
            f'\n[paths]\nconfig = "{self.machines}/{{host}}/etc/evercache"\n'
            f'data = "{self.machines}/{{host}}/var"\nuser = "{getpass.getuser()}"\n'
        )
        (folder / "cache.toml").write_text(text)
        self.values = tomllib.loads(text)
        self.description = deploy.parse(self.values)
        self.environment = os.environ | {"MACHINES": str(self.machines)}
        self.environment.pop("EVERCACHE_URL", None)
        self._tool(folder / "bin", "scp", _SCP)
        for program in ("evercache", "python"):
            module = "-m evercache" if program == "evercache" else ""
            self._tool(folder / "bin", program, f'#!/bin/sh\nexec {quote(sys.executable)} {module} "$@"\n')
        (source,) = re.findall(r"^```python\n(# pages\.py\n.*?)^```$", PAGE, re.M | re.S)
        (folder / "pages.py").write_text(source)
        for host in self.hosts:
            self._machine(host)

    def _machine(self, host: str) -> None:
        machine = self.machines / host
        for name in ("root", "run", "proc", "etc/supervisor/conf.d", "etc/sysctl.d", "etc/cron.d"):
            (machine / name).mkdir(parents=True)
        for program in ("apt-get", "service", "update-rc.d", "sysctl"):
            self._tool(machine / "bin", program, _SHIM)
        control = f"{quote(sys.executable)} -P -m supervisor.supervisorctl -c {self._conf(host)}"
        self._tool(machine / "bin", "supervisorctl", f'#!/bin/sh\nexec {control} "$@"\n')
        self._conf(host).write_text(_SUPERVISOR.format(run=machine / "run", etc=machine / "etc"))

    @staticmethod
    def _tool(folder: Path, name: str, text: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def _conf(self, host: str) -> Path:
        return self.machines / host / "etc" / "supervisor" / "supervisord.conf"

    # -- what a person does

    def here(self, line: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command on one's own machine; `export` stays."""
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        line = line.replace("10.0.0.", "127.0.0.")
        if line.startswith("export "):
            line += ' && printf %s "$EVERCACHE_URL"'
        done = self._shell(line, self.folder, self.environment | {"PATH": path}, timeout)
        if line.startswith("export "):
            self.environment["EVERCACHE_URL"] = done.stdout
        return done

    def at(self, host: str, line: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command on a machine, as root in the home folder."""
        machine = self.machines / host
        for path, folder in (("/etc/", "etc/"), ("/var/lib/evercache", "var"), ("/proc/sysrq-", "proc/sysrq-")):
            line = line.replace(path, f"{machine}/{folder}")
        environment = {"PATH": f"{machine}/bin:{os.environ['PATH']}", "HOME": str(machine / "root")}
        return self._shell(line, machine / "root", environment, timeout)

    @staticmethod
    def _shell(
        line: str, folder: Path, environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", line],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    # -- what happens to a machine

    def boot(self, host: str) -> None:
        """Debian starts its Supervisor."""
        with contextlib.suppress(FileNotFoundError):
            (self.machines / host / "proc" / "sysrq-trigger").unlink()
        (self.machines / host / "proc" / "sysrq-trigger").touch()
        self.start(host)

    def asked(self, host: str) -> str:
        """The order that the kernel of the machine was given."""
        return (self.machines / host / "proc" / "sysrq-trigger").read_text().strip()

    def lose_power(self, *hosts: str) -> None:
        """Everything on them is gone at once; Supervisor first, so that it starts nothing."""
        machines = [f"{self.machines / host}/" for host in hosts]
        for _ in range(100):
            running = [pid for pid in _processes() if any(_belongs(pid, machine) for machine in machines)]
            for pid in sorted(running, key=lambda pid: "supervisord" not in _command(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not running:
                return
            time.sleep(0.05)
        raise TimeoutError(f"processes that do not end: {running}")

    def logs(self) -> str:
        found = sorted(self.machines.glob("*/var/supervisor/*.log"))
        return "\n".join(f"== {one}\n{one.read_text(errors='replace')[-1500:]}" for one in found)

    def close(self) -> None:
        self.lose_power(*self.hosts)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _belongs(pid: int, machine: str) -> bool:
    """Whether a process works in a folder of the machine, or is its Supervisor."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd").startswith(machine) or f"{machine}etc/supervisor" in _command(pid)
    return False


def _command(pid: int) -> str:
    """Of a living process; that of a zombie is empty."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""
