from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evercache.errors import (
    AccessDenied,
    AuthenticationFailed,
    Loading,
    NoScript,
    OutOfMemory,
    ProtocolError,
    ReadOnly,
    ServerError,
)
from evercache.net.resp import (
    PENDING,
    Decoder,
    confirmations,
    encode,
    error_from,
    is_confirmation,
    is_message,
)


def decode_all(data: bytes) -> list[Any]:
    decoder = Decoder()
    decoder.feed(data)
    replies = []
    while (reply := decoder.next()) is not PENDING:
        replies.append(reply)
    return replies


def test_encode() -> None:
    assert encode([("GET", "ä"), [b"\r\n", 7, -1.5]]) == (
        b"*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa4\r\n*3\r\n$2\r\n\r\n\r\n$1\r\n7\r\n$4\r\n-1.5\r\n"
    )
    assert encode([]) == b""


@pytest.mark.parametrize("bad", [[("A", None)], [("A", True)], [("A", ["x"])], [("A", "b"), (None,)]])
def test_encode_refuses_other_types(bad: Any) -> None:
    with pytest.raises(TypeError):
        encode(bad)


@pytest.mark.parametrize("bad", [[()], [("A",), ()]])
def test_encode_refuses_empty_commands(bad: Any) -> None:
    with pytest.raises(ValueError, match="empty command"):
        encode(bad)


ARGUMENTS = st.binary() | st.text() | st.integers() | st.floats(allow_nan=False)


@given(st.lists(st.lists(ARGUMENTS, min_size=1), max_size=5), st.integers(1, 20))
def test_what_is_encoded_is_decoded_however_it_is_cut(commands: list[list[Any]], step: int) -> None:
    data = encode(commands)
    decoder = Decoder()
    got = []
    for start in range(0, len(data), step):
        decoder.feed(data[start : start + step])
        while (reply := decoder.next()) is not PENDING:
            got.append(reply)
    want = [[one if isinstance(one, bytes) else str(one).encode() for one in command] for command in commands]
    assert got == want
    assert decoder.is_empty()


def test_lengths_behind_a_string_that_was_put_are_looked_at() -> None:
    decoder = Decoder()
    decoder.put(data := b"$5\r\nhello\r\n*4000000000\r\n")
    assert decoder.gets() == b"hello"
    with pytest.raises(ProtocolError, match="announces more"):
        decoder.began(data)
    decoder = Decoder()
    decoder.put(data := b"$5\r\nhel")
    assert decoder.gets() is PENDING
    decoder.began(data)
    decoder.feed(b"lo\r\n*4000000000\r\n")
    assert decoder.next() == b"hello"
    with pytest.raises(ProtocolError, match="announces more"):
        decoder.next()


@pytest.mark.parametrize("first", [b"+OK\r\n", b":1\r\n", b"*1\r\n+a\r\n"])
def test_what_is_left_out_is_not_forgotten(first: bytes) -> None:
    """A connection that looks for more than it asked for must see it, though the parser is not given that."""
    decoder = Decoder()
    decoder.feed(first + b"*4000000000\r\n+b\r\n")
    assert decoder.next() is not PENDING
    assert decoder.has_data()
    assert not decoder.is_empty()
    with pytest.raises(ProtocolError, match="announces more"):
        decoder.pop()


def test_every_type_of_reply() -> None:
    data = (
        b"+OK\r\n:-5\r\n$-1\r\n*-1\r\n_\r\n$0\r\n\r\n*2\r\n:1\r\n*0\r\n%1\r\n+k\r\n+v\r\n~2\r\n:1\r\n:2\r\n"
        b"#t\r\n,1.5\r\n(12345678901234567890\r\n=5\r\ntxt:a\r\n"
    )
    assert decode_all(data) == [
        *(b"OK", -5, None, None, None, b"", [1, []], {b"k": b"v"}, [1, 2]),
        *(True, 1.5, b"12345678901234567890", b"a"),
    ]


def test_errors_are_values_wherever_they_stand() -> None:
    first, second = decode_all(b"*2\r\n-READONLY a\r\n:1\r\n-ERR \xff\r\n")
    assert type(first[0]) is ReadOnly
    assert first[1] == 1
    assert type(second) is ServerError


def test_messages_are_told_from_replies() -> None:
    decoder = Decoder()
    decoder.feed(b">3\r\n+message\r\n+a\r\n+b\r\n:1\r\n>2\r\n+invalidate\r\n")
    message = decoder.next()
    assert is_message(message, subscribed=False)
    assert not is_confirmation(message)
    assert decoder.next() == 1
    assert not decoder.is_empty()
    decoder.feed(b"*0\r\n+x\r\n")
    assert decoder.pop() == b"x"
    assert decoder.pop() is PENDING
    for kind in (b"message", b"pmessage", b"subscribe", b"punsubscribe"):
        assert is_message([kind, b"a", 1], subscribed=True)
        assert not is_message([kind, b"a", 1], subscribed=False)
    for reply in ([], [1], [b"pong", b""], b"message", None, {b"message": 1}):
        assert not is_message(reply, subscribed=True)
    assert is_confirmation([b"subscribe", b"a", 1])
    assert not is_confirmation([])


def test_confirmations() -> None:
    assert confirmations(("GET", "k")) == 0
    assert confirmations(("SUBSCRIBE", "a", "b")) == 2
    assert confirmations((b"pUnsubscribe", b"a")) == 1
    with pytest.raises(ValueError, match="name the channels"):
        confirmations(("UNSUBSCRIBE",))


@pytest.mark.parametrize("junk", [b"HTTP/1.1 200 OK\r\n", b"\x16\x03\x01", b"%1\r\n*1\r\n:1\r\n:1\r\n", b":x\r\n"])
def test_what_is_no_resp(junk: bytes) -> None:
    with pytest.raises(ProtocolError, match="check the port and TLS") as caught:
        decode_all(junk)
    assert caught.value.maybe_run is True


@given(st.binary(max_size=60))
def test_any_bytes_are_replies_or_a_protocol_error(data: bytes) -> None:
    # Lengths of announced collections are bounded here: hiredis makes room for them at once.
    if any(len(number) > 4 for number in data.split(b"\r\n")):
        data = data[:4]
    try:
        for reply in decode_all(data):
            assert isinstance(reply, bytes | int | float | list | dict | ServerError | None)
    except ProtocolError:
        pass


SCRIPT_6 = "ERR Error running script (call to f_0123): @user_script:1: @user_script: 1: "


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("ERR unknown command 'X'", ServerError, "ERR"),
        ("WRONGTYPE Operation against a key", ServerError, "WRONGTYPE"),
        ("", ServerError, ""),
        ("READONLY You can't write against a read only replica.", ReadOnly, "READONLY"),
        ("READONLY You can't write. script: on @user_script:1.", ReadOnly, "READONLY"),
        (SCRIPT_6 + "-READONLY You can't write against a read only replica.", ReadOnly, "READONLY"),
        ("@user_script: 1: -READONLY You can't write", ReadOnly, "READONLY"),
        ("@user_script:12: -OOM command not allowed", OutOfMemory, "OOM"),
        (SCRIPT_6 + "-MISCONF Errors writing to the AOF", OutOfMemory, "MISCONF"),
        ("NOREPLICAS Not enough good replicas to write.", OutOfMemory, "NOREPLICAS"),
        ("LOADING Redis is loading", Loading, "LOADING"),
        ("MASTERDOWN Link with MASTER is down", Loading, "MASTERDOWN"),
        ("BUSY Valkey is busy", Loading, "BUSY"),
        ("BUSYGROUP Consumer Group name already exists", ServerError, "BUSYGROUP"),
        ("TRYAGAIN Multiple keys", Loading, "TRYAGAIN"),
        ("CLUSTERDOWN Hash slot not served", Loading, "CLUSTERDOWN"),
        ("NOSCRIPT No matching script.", NoScript, "NOSCRIPT"),
        ("WRONGPASS invalid username-password pair", AuthenticationFailed, "WRONGPASS"),
        ("NOAUTH Authentication required.", AuthenticationFailed, "NOAUTH"),
        ("ERR invalid password", AuthenticationFailed, "ERR"),
        ("ERR Client sent AUTH, but no password is set", AuthenticationFailed, "ERR"),
        ("ERR AUTH <password> called without any password configured", AuthenticationFailed, "ERR"),
        ("NOPERM No permissions to access a key", AccessDenied, "NOPERM"),
        ("ERR ACL failure in script: No permissions to access a key", AccessDenied, "NOPERM"),
        (SCRIPT_6 + "The user executing the script can't run this command", AccessDenied, "NOPERM"),
        ("@user_script: 1: The user executing the script can't access", AccessDenied, "NOPERM"),
        (SCRIPT_6 + "Wrong number of args", ServerError, "ERR"),
        ("ERR my script says: use -READONLY mode", ServerError, "ERR"),
    ],
)
def test_error_classes(text: str, kind: type[ServerError], code: str) -> None:
    error = error_from(text)
    assert type(error) is kind
    assert error.code == code
    assert error.maybe_run is False
    assert error_from(str(error)).code == code


@given(st.text())
def test_any_error_text_makes_an_error(text: str) -> None:
    assert isinstance(error_from(text), ServerError)


def test_the_parser_is_the_one_this_file_believes_in() -> None:
    assert isinstance(decode_all(b">1\r\n+x\r\n")[0], hiredis.PushNotification)


@pytest.mark.parametrize(
    "begin", [b"*2\r\n$1\r\na\r\n", b"%1\r\n+k\r\n", b"*1\r\n*1\r\n", b"*2\r\n*0\r\n", b">2\r\n:1\r\n"]
)
def test_a_list_that_came_in_part_is_no_end(begin: bytes) -> None:
    """What follows looks like a string of its own, and is an item."""
    decoder = Decoder()
    decoder.feed(begin)
    assert decoder.next() is PENDING
    assert not decoder.is_empty()
    decoder.feed(b"$1\r\nb\r\n")
    assert decoder.next() is not PENDING
    assert decoder.is_empty()


@pytest.mark.parametrize("sizes", [(3, 0, 2000), (4096, 10, 5000), (100, 100_000, 7), tuple(range(300))])
def test_strings_are_taken_at_once_and_the_rest_with_a_look_at_its_lengths(sizes: tuple[int, ...]) -> None:
    values = [bytes(size) for size in sizes]
    data = b"$-1\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(value), value) for value in values)
    decoder = Decoder()
    assert decoder.strings(data) == ([None, *values], True)
    assert decoder.is_empty()
    for end, reply in ((b"*1\r\n:5\r\n", [5]), (b"$9\r\nabc", PENDING)):
        assert decoder.strings(data + end) == ([None, *values], False)
        assert decoder.next() == reply
    decoder.feed(b"defghi\r\n")
    assert decoder.next() == b"abcdefghi"
    assert decoder.strings(data + b":1\r\n*4294967295\r\n") == ([None, *values], False)
    assert decoder.next() == 1
    with pytest.raises(ProtocolError):
        decoder.next()
