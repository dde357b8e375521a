"""The pre-fork server of the site: gunicorn in a process group of its own, on a free port of loopback."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from evercache.errors import DemoFailed
from evercache.ops.demo.site import SiteOptions

__all__ = ["SiteServer"]

WORKERS, THREADS = 3, 4
#: Names that an older gunicorn does not know are ignored in a file, and refused on a command line.
_CONFIG = f"""
workers, threads, worker_class = {WORKERS}, {THREADS}, "gthread"
timeout, graceful_timeout, keepalive = 60, 3, 2
control_socket_disable = True
"""


class SiteServer:
    """Three processes with four threads each. A context manager; used by one thread."""

    def __init__(self, options: SiteOptions, folder: Path) -> None:
        self.port = 0
        self._options = options
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<SiteServer {self._options.variant} on port {self.port}>"

    def __enter__(self) -> SiteServer:
        config = self._folder / "gunicorn.conf.py"
        config.write_text(_CONFIG)
        # The socket is bound here and inherited, so no other program can take the port in between.
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener, self.log.open("wb") as log:
            self.port = listener.getsockname()[1]
            command = [sys.executable, "-m", "gunicorn", "--config", str(config)]
            command += ["--bind", f"fd://{listener.fileno()}", "evercache.ops.demo.site:create_app()"]
            environment = {key: value for key, value in os.environ.items() if key != "GUNICORN_CMD_ARGS"}
            self._process = subprocess.Popen(
                command,
                env={**environment, **self._options.to_environment()},
                cwd=self._folder,
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def log(self) -> Path:
        """What gunicorn and the application say."""
        return self._folder / f"site-{self._options.variant}.log"

    def _wait(self, seconds: float = 30) -> None:
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/healthz")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
        tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])
        raise DemoFailed(f"the site did not start: {tail or 'gunicorn said nothing'}")

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(6)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)  # workers that outlive their arbiter, or all of them
        except ProcessLookupError:
            pass
        process.wait()
