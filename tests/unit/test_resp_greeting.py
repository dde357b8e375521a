from __future__ import annotations

from typing import Any

import pytest

from evercache.errors import AuthenticationFailed, Loading, ProtocolError, ServerError
from evercache.net.greeting import Greeter, UnexpectedServer, greet
from evercache.net.resp import error_from
from evercache.net.types import ConnectionOptions, Credentials, Greeting

SERVER = (
    b"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2-rc1\r\n"
    b"redis_mode:standalone\r\nrun_id:abc\r\n"
)
REPLICATION = b"# Replication\r\nrole:slave\r\nmaster_host:::1\r\nmaster_replid:def\r\n"
TIME = [b"1700000000", b"000042"]
UNKNOWN = error_from("ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `hush`, ")


def answer(greeter: Greeter, **replies: Any) -> Any:
    """Drive the generator: the name of a command, with its first argument, gives the reply."""
    asked: list[Any] = []
    commands = next(greeter)
    try:
        while True:
            asked.append([tuple(command) for command in commands])
            names = ["_".join(map(str, command[:2])) for command in commands]
            defaults = {"INFO_server": SERVER, "INFO_replication": REPLICATION, "TIME": TIME}
            known = defaults | replies
            found = [known.get(name, known.get(name.split("_")[0], b"OK")) for name in names]
            commands = greeter.send((found, 12.5))
    except StopIteration as end:
        return end.value, asked


def test_one_round_trip() -> None:
    options = ConnectionOptions(Credentials("u", "hush"), db=2, client_name="a b\nä")
    greeting, asked = answer(greet(options))
    assert greeting == Greeting("abc", "slave", "def", "valkey", (9, 1), 1_700_000_000_000_042, 12.5)
    (commands,) = asked
    assert commands[0] == ("HELLO", 3, "AUTH", "u", "hush", "SETNAME", "a-b--")
    assert [command for command in commands if command[0] == "SELECT"] == [("SELECT", 2)]


@pytest.mark.parametrize(
    ("credentials", "hello", "login"),
    [
        (Credentials(), (), []),
        (Credentials(None, "p"), ("AUTH", "default", "p"), [("AUTH", "p")]),
        (Credentials("u", "p"), ("AUTH", "u", "p"), [("AUTH", "u", "p")]),
        (Credentials("u"), ("AUTH", "u", ""), [("AUTH", "u", "")]),
    ],
)
def test_login_with_and_without_hello(credentials: Credentials, hello: Any, login: Any) -> None:
    greeting, asked = answer(greet(ConnectionOptions(credentials)), HELLO=UNKNOWN)
    assert asked[0][0] == ("HELLO", 3, *hello, "SETNAME", "evercache")
    assert asked[1][: len(login) + 1] == [*login, ("CLIENT", "SETNAME", "evercache")]
    assert greeting.run_id == "abc"


def test_old_servers_know_no_setinfo() -> None:
    old = error_from("ERR Unknown subcommand")
    greeting, _ = answer(greet(ConnectionOptions()), CLIENT=old)
    assert greeting.role == "slave"


def test_sentinels_are_asked_less() -> None:
    info = SERVER.replace(b"standalone", b"sentinel")
    greeting, asked = answer(greet(ConnectionOptions(db=3, sentinel=True)), INFO_server=info)
    assert (greeting.role, greeting.replid, greeting.time_us) == ("sentinel", "", 0)
    assert [command[:2] for command in asked[0]][-1] == ("INFO", "server")
    assert not {"SELECT", "TIME"} & {command[0] for command in asked[0]}


@pytest.mark.parametrize(
    ("replies", "kind", "message"),
    [
        ({"HELLO": error_from("WRONGPASS no")}, AuthenticationFailed, "WRONGPASS no .*check the user name"),
        ({"HELLO": UNKNOWN, "AUTH": error_from("ERR invalid password")}, AuthenticationFailed, "at AUTH"),
        ({"INFO_server": error_from("LOADING wait")}, Loading, "at INFO server"),
        ({"SELECT": error_from("ERR DB index is out of range")}, ServerError, "lower database number"),
        ({"TIME": error_from("NOPERM no")}, ServerError, r"needs \+info \+time"),
        ({"TIME": [b"x", b"1"]}, ProtocolError, "TIME was answered"),
        ({"TIME": b"5"}, ProtocolError, "TIME was answered"),
        ({"INFO_server": 5}, ProtocolError, "by int, not by text"),
        ({"INFO_replication": b""}, ProtocolError, "role None"),
        ({"INFO_server": SERVER.replace(b"standalone", b"sentinel")}, ProtocolError, "sentinel://"),
    ],
)
def test_what_goes_wrong(replies: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        answer(greet(ConnectionOptions(Credentials("u", "hush"), db=1)), **replies)
    assert type(caught.value) in (kind, UnexpectedServer) or kind is ServerError
    assert "hush" not in repr(caught.value)


def test_a_node_of_a_cluster() -> None:
    server = SERVER.replace(b"redis_mode:standalone", b"redis_mode:cluster")
    with pytest.raises(ProtocolError, match="Cluster is not supported"):
        answer(
            greet(ConnectionOptions(db=1)), INFO_server=server, SELECT=error_from("ERR DB index is out of range")
        )
