"""What the tests run where a person runs `valkey-cli`: the same arguments, the same password in the environment."""

from __future__ import annotations

import os
import socket
import sys

import hiredis


def main() -> None:
    words, given = sys.argv[1:], {"--pass": os.environ.get("VALKEYCLI_AUTH", "")}
    while words[0].startswith("-"):
        given[words[0]] = words[1]
        words = words[2:]
    assert given.keys() <= {"-h", "-p", "--user", "--pass"}
    login = ("AUTH", *([given["--user"]] if "--user" in given else []), given["--pass"])
    reader = hiredis.Reader(encoding="utf-8", errors="replace")
    with socket.create_connection((given["-h"], int(given["-p"])), 10) as connection:
        for command in (login, tuple(words)) if given["--pass"] else (tuple(words),):
            connection.sendall(hiredis.pack_command(command))
            while (reply := reader.gets()) is False:
                data = connection.recv(65536)
                if not data:
                    raise SystemExit("Error: Server closed the connection")
                reader.feed(data)
    # A password that the server does not ask for is no error of the command.
    print(f"(error) {reply}" if isinstance(reply, Exception) else reply)


if __name__ == "__main__":
    main()
