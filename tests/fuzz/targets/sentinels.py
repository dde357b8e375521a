"""What sentinels say, asked or on their own, and who is taken for the master then."""

from __future__ import annotations

from typing import Any

import hiredis

from evercache.errors import ProtocolError
from evercache.net.resp import PENDING, Decoder
from evercache.protocol.topology import RoleReport, SentinelBook
from evercache.protocol.types import Address
from evercache.topology import answers
from tests.edits import edit
from tests.fuzz.target import RESP, Bug, Target, must
from tests.fuzz.targets.replies import decoded, packed
from tests.fuzz.targets.wires import WORDS

__all__ = ["ENTRIES", "TARGETS"]

_SERVICE = "mymaster"
_ASKED = tuple(Address("127.0.0.1", 26379 + n) for n in range(3))


def _entry(name: str, port: int, flags: str, **more: str) -> list[str]:
    fields = {"name": name, "ip": "127.0.0.1", "port": str(port), "runid": f"{port:040x}", "flags": flags, **more}
    return [part for pair in fields.items() for part in pair]


_MASTER = _entry(_SERVICE, 6379, "master", **{"config-epoch": "3", "num-other-sentinels": "2", "quorum": "2"})
ENTRIES: list[Any] = [
    ["127.0.0.1", "6379"],
    _MASTER,
    [_entry("127.0.0.1:6380", 6380, "slave", **{"slave-priority": "100", "master-link-status": "ok"})],
    [_entry("a" * 40, 26380, "sentinel"), _entry("b" * 40, 26381, "sentinel")],
    "c" * 40,
]


def _answers(data: bytes) -> None:
    """Each five replies are the answer of one sentinel; what is left are the roles of the nodes."""
    told = decoded(data, 32)
    book = SentinelBook(_SERVICE, _ASKED)
    now = 1.0
    for sentinel in _ASKED:
        replies, told = told[:5], told[5:]
        answer = answers.parse_answer(_SERVICE, sentinel, now, replies, lambda address: address)
        must((answer.master is None) == (answer.error is not None), "an answer and an error at once")
        named = (answer.master, *(one.address for one in (*answer.replicas, *answer.others)))
        must(
            all(0 < one.port < 65536 and one.host for one in named if one is not None), "an address that nobody has"
        )
        book.heard(answer, now)
        now += 0.1
    for node in book.nodes[:8]:
        book.role(RoleReport(node, now, answers.parse_role(told.pop(0) if told else None)), now)
    book.round_over(now)
    view = book.view
    must(view.master is not None or view.problem is not None, "no master, and nothing is wrong")
    must(view.master not in view.replicas, "a master that is its own replica")
    must(len(book.sentinels) >= len(_ASKED), "a sentinel of the configuration was forgotten")
    repr(book), str(view.problem)


def _messages(data: bytes) -> None:
    decoder = Decoder()
    decoder.feed(data)
    try:
        while (reply := decoder.next()) is not PENDING:
            if type(reply) in (list, hiredis.PushNotification):
                must(answers.concerns(list(reply), _SERVICE) in (True, False), "no answer")
                vote = answers.parse_vote(list(reply))
                must(vote is None or vote[1] >= 0, "a vote in no epoch")
    except ProtocolError:
        return


_EVENT = ["pmessage", "+switch-master", "+switch-master", "mymaster 127.0.0.1 6379 127.0.0.1 6380"]
_VOTE = ["pmessage", "+vote-for-leader", "+vote-for-leader", "a" * 40 + " 4"]
_ANSWER = packed(*ENTRIES)
_FLAGS = (b"s_down", b"o_down", b"failover_in_progress", b"promoted", b"disconnected", b"1", b"0", b"-1", b"65536")

TARGETS = (
    Target(
        "sentinels",
        _answers,
        (
            _ANSWER * 3 + packed(["master", 5, []], ["slave", "127.0.0.1", 6379, "connected", 5]),
            packed(*ENTRIES[:4]) + b"-ERR Unknown subcommand\r\n" + _ANSWER,
            packed(None) + b"-ERR No such master with that name\r\n" * 3 + packed("c" * 40),
        ),
        (
            *WORDS,
            *_FLAGS,
            b"6379",
            b"ip",
            b"port",
            b"flags",
            b"config-epoch",
            b"$4\r\n6379\r\n",
            b"master",
            b"slave",
        ),
        (
            Bug(
                "an answer that is too short",
                edit(answers, "parse_answer", ("KeyError, ValueError, TypeError, IndexError, ", "")),
            ),
            Bug(
                "nobody answers, and nothing is wrong",
                edit(SentinelBook, "_decide", ("problem = self._silence()", "problem = None")),
            ),
        ),
        forms=RESP,
    ),
    Target(
        "messages",
        _messages,
        (
            b">4\r\n" + packed(*_EVENT),
            b">4\r\n" + packed(*_VOTE),
            packed(_EVENT, ["psubscribe", "+switch-master", 1]),
            packed(["message", "channel", "data"]),
        ),
        (*WORDS, b"mymaster", b"*4\r\n"),
        (
            Bug(
                "a message without its end",
                edit(answers, "concerns", ("if len(message) == 4", "if len(message) < 9")),
            ),
            Bug(
                "a message that is no text",
                edit(answers, "_text", ("isinstance(value, bytes)", "value is not None")),
            ),
        ),
        forms=RESP,
    ),
)
