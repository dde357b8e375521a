"""Where a scan may go on, and where it must begin anew."""

from __future__ import annotations

from evercache.protocol.types import Address
from evercache.raw.scans import Cursors, Scan, scanned

A, B = Address("127.0.0.1", 1), Address("127.0.0.1", 2)
FIRST, SECOND = Scan("SCAN", b"", b"0"), Scan("SCAN", b"", b"17")


def test_what_is_a_page_of_a_scan() -> None:
    assert scanned(("SCAN", 0)) == FIRST
    assert scanned(("SCAN", "17", b"MATCH", "x")) == SECOND
    assert scanned(("HSCAN", "h", b"17", "COUNT", 5)) == Scan("HSCAN", b"h", b"17")
    for other in (("GET", "k"), ("SCAN",), ("HSCAN", "h"), (b"SCAN", 0)):
        assert scanned(other) is None


def test_a_scan_goes_on_where_it_was_and_begins_anew_elsewhere() -> None:
    cursors = Cursors()
    assert not cursors.begins_anew(SECOND, (A, "1")), "a cursor that came from elsewhere is taken as it is"
    cursors.gave(FIRST, 17, (A, "1"))
    assert cursors.server(SECOND) == A
    assert not cursors.begins_anew(SECOND, (A, "1"))
    assert cursors.begins_anew(SECOND, (A, "2")), "the process was restarted"
    cursors.gave(FIRST, b"17", (A, "1"))
    assert cursors.begins_anew(SECOND, (B, "1"))


def test_the_same_cursor_of_two_servers() -> None:
    cursors = Cursors()
    cursors.gave(FIRST, 17, (A, "1"))
    cursors.gave(FIRST, 17, (B, "1"))
    assert cursors.server(SECOND) is None
    assert cursors.begins_anew(SECOND, (B, "1")), "whose it is cannot be known"
    assert not cursors.begins_anew(SECOND, (B, "1")), "so that the scan comes to an end"


def test_the_end_of_a_scan_and_old_cursors_are_forgotten() -> None:
    cursors = Cursors()
    cursors.gave(FIRST, b"0", (A, "1"))
    assert repr(cursors) == "<Cursors 0>"
    for cursor in range(1, 3000):
        cursors.gave(FIRST, cursor, (A, "1"))
    assert repr(cursors) == "<Cursors 1000>"
