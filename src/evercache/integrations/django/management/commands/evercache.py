"""`manage.py evercache`: the commands of `evercache`, at the servers of an alias of `CACHES`."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import REMAINDER
from math import inf
from typing import Any

from django.core.cache import caches
from django.core.management.base import BaseCommand, CommandError, CommandParser

from evercache.integrations.django.backend import Cache
from evercache.integrations.django.core import MISSING

_OWN = ("invalidate", "clear", "explain")


class Command(BaseCommand):
    """See the module."""

    help = (
        "clear: end all entries of the alias. invalidate TAG...: end what has a tag. explain KEY: what is kept "
        "under a key. Others (status, doctor, warm, bench, ...) are those of the program `evercache`, and get "
        "the URL of the alias. The exit code is theirs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """The alias, the command, and what it takes."""
        parser.add_argument("--alias", default="default", help="of CACHES (default)")
        parser.add_argument("command", help=f"{', '.join(_OWN)}, status, doctor, ...")
        parser.add_argument("arguments", nargs=REMAINDER)

    def handle(self, *_: Any, alias: str, command: str, arguments: list[str], **options: Any) -> None:
        """Run the command."""
        backend = caches[alias]
        if not isinstance(backend, Cache):
            raise CommandError(f"CACHES[{alias!r}] is no cache of this library")
        if command not in _OWN:
            self._program(backend, [command, *arguments])
        elif command == "clear":
            self._told(bool(backend.clear()), f"all entries of {backend.evercache!r} are ended")
        elif not arguments:
            raise CommandError(f"evercache {command}: name a {'tag' if command == 'invalidate' else 'key'}")
        else:
            for each in arguments:
                if command == "invalidate":
                    self._told(backend.invalidate_tag(each), f"what has the tag {each} is ended")
                else:
                    self.stdout.write(_explained(backend, each))

    def _told(self, done: bool, text: str) -> None:
        if not done:
            raise CommandError("no primary could be asked: see `manage.py evercache status`")
        self.stdout.write(text)

    @staticmethod
    def _program(backend: Cache, command: list[str]) -> None:
        url = backend.url
        if url is None or url.startswith("memory:"):
            raise CommandError("the entries are in the memory of each process: there are no servers to ask")
        # The URL, which has a password, is not shown to who lists processes.
        environment = os.environ | {"EVERCACHE_URL": url}
        sys.exit(subprocess.run([sys.executable, "-m", "evercache", *command], env=environment).returncode)


def _explained(backend: Cache, key: str) -> str:
    value, left = backend.get(key, MISSING), backend.evercache.expires_in(backend.make_key(key))
    if value is MISSING or left is None:
        return f"{key}: not cached"
    shown = repr(value)
    life = "does not expire" if left == inf else f"expires in {left:.0f} s"
    return f"{key}: {life}\n  {shown if len(shown) < 200 else shown[:200] + '...'}"
