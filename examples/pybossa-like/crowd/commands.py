"""`flask --app crowd init` and `flask --app crowd worker`."""

from __future__ import annotations

import logging
import threading
import time
from types import FrameType

import click
from flask import Flask
from redis import RedisError
from rq import SimpleWorker
from rq.exceptions import StopRequested

from crowd import jobs
from crowd.samples import fill

__all__ = ["add"]

LOG = logging.getLogger(__name__)


class Worker(SimpleWorker):
    """Remembers that the process was told to end, also between two workers."""

    told = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM, or Ctrl-C."""
        Worker.told = True
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]


def work(app: Flask) -> None:
    """Do jobs until told to end. An error of the servers, too, ends a worker of RQ: then there is another one."""
    threading.Thread(target=_hand_over, args=(app,), daemon=True).start()
    while not Worker.told:
        try:
            Worker([jobs.queue], connection=jobs.queue.connection).work(logging_level="WARNING")
        except StopRequested:
            break
        except RedisError as error:
            LOG.warning("no worker can begin now: %s", error)
        time.sleep(0.5)


def _hand_over(app: Flask) -> None:
    while True:
        with app.app_context():
            if count := jobs.hand_over_again():
                LOG.warning("%d jobs are put into the queue again", count)
        time.sleep(1)


def add(app: Flask) -> None:
    """Add the commands to an application."""

    @app.cli.command("init")
    def init() -> None:
        """Make the database, with some projects."""
        fill()
        click.echo(f"{app.config['DATABASE']} is ready")

    @app.cli.command("worker")
    def worker() -> None:
        """Do the jobs."""
        work(app)
