"""Commands are packed while signal handlers raise: an error of the caller, never a crash of the process."""

from __future__ import annotations

import pytest
from tests.interrupting import python

from evercache.net.resp import encode

PACK = """
import itertools
from tests.interrupting import under_interrupts
{prepare}
count = itertools.count(10**9)
def step():
    for _ in range(50):
        pack(next(count))
raised = under_interrupts(step, raises=4000, seconds=6, shortest=2e-5, longest=4e-4)
assert raised > 500, raised
"""
WIRE = """
from evercache.net.resp import encode
def pack(number):
    data = encode([("EVALSHA", number, 1.5, number, "key", b"value", *range(number, number + 40))])
    assert data.startswith(b"*46")
"""
RAW = """
from redis.connection import Connection
from evercache.raw.connections import RoutedConnection
from evercache.raw.routes import MasterRoute
from evercache.raw.source import RawOptions, Source

class Nowhere(RoutedConnection):
    def __init__(self):
        Connection.__init__(self)
        from evercache.raw.connection_state import Guard
        self.guard = Guard(MasterRoute(Source(RawOptions())))
    def send_packed_command(self, command, check_health=True):
        pass

connection = Nowhere()
def pack(number):
    words = ("LPUSH", "key", *range(number, number + 40), 1.5)
    connection.send_command(*words)
    connection.pack_commands([words])
    connection.pack_command(*words)
"""


@pytest.mark.parametrize("prepare", [WIRE, RAW], ids=["wire", "raw"])
def test_a_handler_that_raises_while_numbers_are_packed_does_not_end_the_process(prepare: str) -> None:
    """hiredis makes text of a number by `PyObject_Repr`, which runs handlers, and takes no notice of a failure."""
    python(PACK.format(prepare=prepare))


def test_a_number_with_too_many_digits_is_an_error() -> None:
    with pytest.raises(ValueError, match="digits"):
        encode([("SET", "key", 10**5000)])
