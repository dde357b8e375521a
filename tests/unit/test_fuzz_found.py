"""What the fuzzers found (`make fuzz`), each as a test of its own."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import pytest

from evercache.engine.spool import Spool
from evercache.errors import ConfigurationError, DeploymentError, ProtocolError, ServerError, URLError
from evercache.integrations.flask.settings import DEFAULTS, FlaskSettings
from evercache.integrations.pybossa.settings import SiteSettings
from evercache.net.greeting import parse_time
from evercache.net.resp import PENDING, Decoder
from evercache.net.types import ConnectionOptions
from evercache.ops import handover, survey
from evercache.ops.config import DeploymentConfig, NodeConfig
from evercache.ops.doctor import examine, snapshot
from evercache.ops.doctor.facts import ClientFacts, Facts, Group, NodeFacts, SentinelFacts
from evercache.protocol.loglines import parse_log, parse_marks
from evercache.protocol.replies import parse_tip
from evercache.protocol.types import Address
from evercache.topology.answers import parse_answer
from evercache.topology.facts import parse_replication
from evercache.url import parse_url

HERE = Address("127.0.0.1", 6379)
DEEP = b"[" * 50_000


def decoded(*chunks: bytes) -> Any:
    decoder = Decoder()
    for chunk in chunks:
        decoder.feed(chunk)
    return decoder.next()


@pytest.mark.parametrize(
    "chunks",
    [
        (b"*2222222222\r\n",),
        (b"*4294967295\r\n",),
        (b"%99999999\r\n+a\r\n",),
        (b"*1\r\n~2222222222\r\n",),
        (b"*2\r\n$9\r\n*22222222\r\n", b"*2222", b"222222\r\n"),
        (b"*222222", b"2222\r", b"\n"),
    ],
)
def test_a_list_of_billions_is_refused_before_it_is_made(chunks: tuple[bytes, ...]) -> None:
    """It took ten seconds of CPU, in which no thread ran, or was a MemoryError in the caller's hands."""
    began = time.thread_time()
    with pytest.raises(ProtocolError):
        decoded(*chunks)
    assert time.thread_time() - began < 1


def test_replies_before_such_a_list_are_read_and_strings_that_look_like_one() -> None:
    decoder = Decoder()
    decoder.feed(b"$13\r\n*2222222222\r\n\r\n+a\r")
    assert decoder.next() == b"*2222222222\r\n"
    decoder.feed(b"\n*2222222222\r\n")
    assert decoder.next() == b"a"
    with pytest.raises(ProtocolError):
        decoder.next()


def test_large_lists_and_long_lines_in_any_pieces() -> None:
    data = b"*3\r\n$5\r\nab\r\nc\r\n+" + b"x" * 200 + b"\r\n*2\r\n:1\r\n$-1\r\n"
    whole = [b"ab\r\nc", b"x" * 200, [1, None]]
    for size in (1, 2, 3, 7, 50):
        decoder = Decoder()
        found = []
        for at in range(0, 2 * len(data), size):
            decoder.feed((data * 2)[at : at + size])
            while (reply := decoder.next()) is not PENDING:
                found.append(reply)
        assert found == [whole, whole]
    many = [b"%d" % n for n in range(100_000)]
    assert decoded(b"*100000\r\n" + b"".join(b"+%b\r\n" % one for one in many)) == many


def test_one_byte_of_the_next_reply_is_noticed() -> None:
    """The parser itself does not: a connection with such a byte went back into the pool."""
    decoder = Decoder()
    decoder.feed(b"+OK\r\n")
    assert decoder.next() == b"OK"
    assert decoder.is_empty()
    decoder.feed(b"+OK\r\n-")
    assert decoder.next() == b"OK"
    assert decoder.next() is PENDING
    assert not decoder.is_empty()
    for byte in (b">", b"longer than a length\r", b"\n"):
        decoder.feed(byte)
    assert str(decoder.next()) == ">longer than a length"
    assert decoder.is_empty()


def test_errors_inside_of_errors_without_end() -> None:
    """A RecursionError."""
    with pytest.raises(ProtocolError):
        decoded(b"-" + b"ERR @user_script:1: -" * 3000 + b"\r\n")


def test_numbers_with_thousands_of_digits() -> None:
    """A ValueError of Python's own limit, or a number that no clock and no double holds."""
    assert parse_time([b"1" * 5000, b"1"]) is None
    for digits in (b"9" * 30, b"1" * 5000, 1 << 70, 10**5000):
        with pytest.raises(ProtocolError):
            parse_tip([b"ok", digits, b"replid", 1])


@pytest.mark.parametrize("stamp", [b"1e300", b"-1", b"9007199254740993", b"nan", b"inf"])
def test_a_stamp_that_no_script_can_count_with(stamp: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_marks([b"f:app.f", stamp])


def test_marks_that_are_no_pairs() -> None:
    """A TypeError."""
    with pytest.raises(ProtocolError):
        parse_marks([[b"f:app.f", 7.0], 8.0])


@pytest.mark.parametrize("log_id", ["٣-٤", "9" * 30 + "-0"])
def test_a_log_id_that_no_server_gives(log_id: str) -> None:
    with pytest.raises(ProtocolError):
        parse_log([[b"log", [[log_id.encode(), [b"k", b"f", b"n", b"x", b"s", b"1"]]]]])


def test_ports_that_are_none() -> None:
    text = "role:master\r\nmaster_replid:x\r\nmaster_repl_offset:1\r\nslave0:ip=h,port={},state=online\r\n"
    assert parse_replication(text.format("6380")).replicas == (Address("h", 6380),)
    assert parse_replication(text.format("66380")).replicas == ()
    with pytest.raises(ProtocolError):
        parse_replication([])  # type: ignore[arg-type]


def test_a_sentinel_whose_replica_has_lost_its_address() -> None:
    def entry(port: str) -> list[str]:
        return ["ip", "127.0.0.1", "port", port, "flags", "slave", "config-epoch", "1"]

    replies = [["127.0.0.1", "6379"], entry("6379"), [entry("6380"), entry("0")], [entry("70000")], "id"]
    answer = parse_answer("shop", HERE, 1.0, replies, lambda address: address)
    assert answer.error is None
    assert [one.address.port for one in answer.replicas] == [6380]
    assert answer.others == ()
    replies[1] = entry("70000")
    assert parse_answer("shop", HERE, 1.0, replies, lambda address: address).error is not None


@pytest.mark.parametrize(
    "info", [b"no colon", b"role:slave\r\nmaster_replid:x\r\n", b"role:master\r\ndb0:x\r\n", [], 5, None]
)
def test_status_of_a_server_that_answers_oddly(info: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyError, IndexError, AttributeError: `evercache status` ended with a traceback."""
    monkeypatch.setattr(survey, "ask", lambda *_, **__: [info])
    report = survey._node("node-1", HERE, ConnectionOptions())
    assert report.state == "odd"
    assert str(HERE) in report.detail or "INFO" in report.detail
    judged = survey._judged(report, (report,), None)
    assert judged.use == "nothing"
    assert judged.reason == report.detail


def test_status_and_failover_with_a_sentinel_that_answers_oddly(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = survey.Targets({}, ConnectionOptions(), {}, ConnectionOptions(), "shop")
    monkeypatch.setattr(survey, "ask", lambda *_, **__: [None, 1, [], []])
    assert survey._sentinel("sentinel-1", HERE, targets).state == "odd"
    monkeypatch.setattr(handover, "ask", lambda *_, **__: [[], []])
    assert handover._promotable(targets, HERE)[0] == ()
    monkeypatch.setattr(handover, "ask", lambda *_, **__: [{"replica-priority": "much"}, [], [], []])
    assert handover._settings(targets, HERE) == handover.NodeSettings()


def test_the_doctor_of_a_server_that_answers_oddly() -> None:
    """ValueError, TypeError, IndexError: it ended with a traceback. What is not understood is told as not seen."""
    gather: Any = importlib.import_module("evercache.ops.doctor.gather")
    talk = gather._Talk(HERE, ConnectionOptions())
    assert talk.note("CONFIG", ["name"], gather.texts, {}) == {}
    assert talk.note("ROLE", [], lambda reply: reply[0], "") == ""
    assert set(talk.hidden) == {"CONFIG", "ROLE"}
    assert talk.note("CONFIG", ServerError("NOPERM x"), gather.texts, {}) == {}


@pytest.mark.parametrize("digits", ["1" * 5000, "²", "1e400", "nan", "9" * 30])
def test_the_doctor_with_numbers_that_are_none(digits: str) -> None:
    """ValueError of int() and OverflowError of round(), out of INFO or out of a file."""
    gather: Any = importlib.import_module("evercache.ops.doctor.gather")
    assert gather._clock({"server_time_usec": digits}, 1.0, 2.0) is None
    names = ("uptime_in_seconds", "total_net_repl_output_bytes", "maxmemory", "slave_priority", "master_port")
    info = dict.fromkeys(
        (*names, "valkey_version", "total_system_memory", "repl_backlog_size", "master_host"), digits
    )
    config = {"min-replicas-to-write": digits, "client-output-buffer-limit": f"slave {digits} {digits} {digits}"}
    node = NodeFacts(HERE, role="slave", info=info, config=config)
    group = Group("shop", {"ip": "h", "port": digits, "config-epoch": digits, "down-after-milliseconds": digits})
    facts = Facts(
        ClientFacts("sentinel://h/shop", "sentinel", "shop"),
        (SentinelFacts(HERE, groups=(group,), info=info),),
        (node, NodeFacts(Address("h", 1), role="master", info=info, config=config)),
    )
    assert examine(facts)


def test_a_file_that_is_no_utf_8() -> None:
    """A UnicodeDecodeError, which msgspec lets pass."""
    with pytest.raises(ConfigurationError):
        snapshot.read(b'{"format": 1, "client": {"url": "\x89", "kind": "sentinel"}}', "file")


def test_files_that_nest_without_end(tmp_path: Path) -> None:
    """A RecursionError."""
    with pytest.raises(ConfigurationError):
        snapshot.read(b'{"client":' * 50_000, "file")
    (tmp_path / "deployment.json").write_bytes(DEEP)
    with pytest.raises(DeploymentError, match="damaged"):
        DeploymentConfig.load(tmp_path)
    (tmp_path / "spool").write_bytes(DEEP + b"\n")
    assert [item.scope.kind for item in Spool(str(tmp_path / "spool")).load()] == ["*"]


def test_a_deployment_with_a_field_of_another_kind(tmp_path: Path) -> None:
    nodes = (NodeConfig("node-1", 7001), NodeConfig("sentinel-1", 7002, True, "c" * 40))
    made = DeploymentConfig("default", tmp_path, Path("/bin/x"), "pass-word-1", "pass-word-2", nodes)
    made.save()
    assert DeploymentConfig.load(tmp_path) == made
    text = (tmp_path / "deployment.json").read_text()
    for old, new in (("7001", "67001"), ("7001", '"7001"'), ('"pass-word-1"', "1"), ("1000", "null")):
        (tmp_path / "deployment.json").write_text(text.replace(old, new))
        with pytest.raises(DeploymentError, match="damaged"):
            DeploymentConfig.load(tmp_path)


def test_a_deployment_does_not_show_its_passwords() -> None:
    made = DeploymentConfig("default", Path("/x"), Path("/bin/x"), "pass-word-1", "pass-word-2", ())
    assert "pass-word" not in repr(made)


@pytest.mark.parametrize(
    "url", ["redis://user:p?s3cr3t&db=1@host", "redis://user:p?s3cr3t&x@host", "sentinel://:a?s3cr3t=x@h/m"]
)
def test_a_password_with_a_question_mark_is_not_repeated(url: str) -> None:
    """What follows it was taken for a parameter, and named in the error."""
    with pytest.raises(URLError) as caught:
        parse_url(url)
    assert "s3cr3t" not in str(caught.value)


def test_settings_of_another_kind() -> None:
    """A TypeError and an OverflowError."""
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        SiteSettings.read({"EVERCACHE_SECRET_KEYS": 1.5})
    for name in ("CACHE_REDIS_DB", "CACHE_THRESHOLD"):
        kind = "RedisCache" if name == "CACHE_REDIS_DB" else "SimpleCache"
        with pytest.raises(ValueError, match=name):
            FlaskSettings.of({**DEFAULTS, "CACHE_TYPE": kind, "EVERCACHE_URL": None, name: float("inf")})
