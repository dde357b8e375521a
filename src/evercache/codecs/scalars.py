"""The bytes of single values that MessagePack does not know: dates, decimals, long integers, ..."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from struct import Struct
from typing import Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

from evercache.errors import CannotEncode
from evercache.protocol.canonical import describe, shown

__all__ = ["SCALAR_CODES", "SCALAR_DECODERS", "encode_scalar"]

_DATE = Struct(">HBB")
_TIME = Struct(">BBBIB")
_SPAN = Struct(">iIi")
_OFFSET = Struct(">q")
_COMPLEX = Struct(">dd")
_LENGTH = Struct(">I")
#: In bytes.
_LONGEST_FRACTION = 8192
_MICROSECOND = dt.timedelta(microseconds=1)
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_SAFETY_LETTERS = {SafeUUID.safe: b"s", SafeUUID.unsafe: b"u", SafeUUID.unknown: b""}
_SAFETIES = {letter: safety for safety, letter in _SAFETY_LETTERS.items()}


def encode_scalar(value: Any) -> tuple[int, bytes]:
    """The extension code and the bytes of a value whose exact type is one of `SCALAR_CODES`."""
    code, encode = SCALAR_CODES[type(value)]
    return code, encode(value)


def _encode_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _decode_int(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _encode_date(value: dt.date) -> bytes:
    return _DATE.pack(value.year, value.month, value.day)


def _decode_date(data: bytes) -> dt.date:
    return dt.date(*_DATE.unpack(data))


def _encode_clock(value: dt.time | dt.datetime) -> bytes:
    return _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold)


def _decode_clock(data: bytes) -> dt.time:
    hour, minute, second, microsecond, fold = _TIME.unpack_from(data)
    return dt.time(hour, minute, second, microsecond, _decode_zone(data[_TIME.size :]), fold=fold)


def _encode_time(value: dt.time) -> bytes:
    return _encode_clock(value) + _encode_zone(value.tzinfo)


def _encode_datetime(value: dt.datetime) -> bytes:
    return _encode_date(value) + _encode_clock(value) + _encode_zone(value.tzinfo)


def _decode_datetime(data: bytes) -> dt.datetime:
    return dt.datetime.combine(_decode_date(data[: _DATE.size]), _decode_clock(data[_DATE.size :]))


def _encode_zone(zone: dt.tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if zone is dt.UTC:
        return b"u"
    if type(zone) is dt.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        text = "".join(f"={part}" for part in name)
        return b"o" + _OFFSET.pack(offset // _MICROSECOND) + text.encode("utf-8", "surrogatepass")
    if type(zone) is ZoneInfo and zone.key and _ZONE_KEY.fullmatch(zone.key) and ZoneInfo(zone.key) is zone:
        return b"z" + zone.key.encode()
    raise CannotEncode(
        f"the time zone {shown(zone)} ({describe(zone)}) cannot be rebuilt, so the value is not cached: "
        "use datetime.timezone or ZoneInfo with a key"
    )


def _decode_zone(data: bytes) -> dt.tzinfo | None:
    if not data:
        return None
    if data == b"u":
        return dt.UTC
    if data[:1] == b"o":
        offset = _OFFSET.unpack_from(data, 1)[0] * _MICROSECOND
        name = data[1 + _OFFSET.size :].decode("utf-8", "surrogatepass")
        return dt.timezone(offset, name[1:]) if name else dt.timezone(offset)
    key = data[1:].decode()
    if data[:1] != b"z" or not _ZONE_KEY.fullmatch(key):
        raise ValueError("unknown form of a time zone")
    return ZoneInfo(key)


def _encode_timedelta(value: dt.timedelta) -> bytes:
    return _SPAN.pack(value.days, value.seconds, value.microseconds)


def _decode_timedelta(data: bytes) -> dt.timedelta:
    days, seconds, microseconds = _SPAN.unpack(data)
    return dt.timedelta(days, seconds, microseconds)


def _encode_uuid(value: UUID) -> bytes:
    return value.bytes + _SAFETY_LETTERS[value.is_safe]


def _decode_uuid(data: bytes) -> UUID:
    return UUID(bytes=data[:16], is_safe=_SAFETIES[data[16:]])


def _decode_complex(data: bytes) -> complex:
    return complex(*_COMPLEX.unpack(data))


_PATHS: dict[bytes, Any] = {b"p": PosixPath, b"w": WindowsPath, b"P": PurePosixPath, b"W": PureWindowsPath}
_PATH_LETTERS = {kind: letter for letter, kind in _PATHS.items()}
_ADDRESSES: dict[bytes, Any] = {
    b"a4": ipaddress.IPv4Address,
    b"a6": ipaddress.IPv6Address,
    b"n4": ipaddress.IPv4Network,
    b"n6": ipaddress.IPv6Network,
    b"i4": ipaddress.IPv4Interface,
    b"i6": ipaddress.IPv6Interface,
}
_ADDRESS_LETTERS = {kind: letters for letters, kind in _ADDRESSES.items()}


def _encode_path(value: Any) -> bytes:
    return _PATH_LETTERS[type(value)] + str(value).encode("utf-8", "surrogatepass")


def _decode_path(data: bytes) -> object:
    # A path of another system cannot be made here, and is a miss.
    return _PATHS[data[:1]](data[1:].decode("utf-8", "surrogatepass"))


def _encode_address(value: Any) -> bytes:
    return _ADDRESS_LETTERS[type(value)] + str(value).encode()


def _decode_address(data: bytes) -> object:
    return _ADDRESSES[data[:2]](data[2:].decode())


def _encode_ints(*values: int) -> bytes:
    parts = [_encode_int(value) for value in values]
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def _decode_ints(data: bytes) -> list[int]:
    values = []
    while data:
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        if len(data) < end:
            raise ValueError("a number that was cut short")
        values.append(_decode_int(data[_LENGTH.size : end]))
        data = data[end:]
    return values


def _encode_fraction(value: Fraction) -> bytes:
    data = _encode_ints(value.numerator, value.denominator)
    if len(data) > _LONGEST_FRACTION:
        raise CannotEncode(
            f"a fraction of {len(data)} bytes takes long to read, so it is not cached: return a float"
        )
    return data


def _decode_fraction(data: bytes) -> Fraction:
    # It is reduced again, which takes time with the square of its length.
    if len(data) > _LONGEST_FRACTION:
        raise ValueError("a fraction that nobody wrote")
    return Fraction(*_decode_ints(data))


#: Exact type -> (extension code, encoder). An int comes here only when it is beyond 64 bits.
SCALAR_CODES: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    int: (1, _encode_int),
    dt.date: (3, _encode_date),
    dt.time: (4, _encode_time),
    dt.datetime: (5, _encode_datetime),
    dt.timedelta: (6, _encode_timedelta),
    Decimal: (7, lambda value: str(value).encode()),
    UUID: (8, _encode_uuid),
    complex: (9, lambda value: _COMPLEX.pack(value.real, value.imag)),
    **dict.fromkeys(_PATH_LETTERS, (10, _encode_path)),
    **dict.fromkeys(_ADDRESS_LETTERS, (11, _encode_address)),
    Fraction: (12, _encode_fraction),
    range: (13, lambda value: _encode_ints(value.start, value.stop, value.step)),
}

SCALAR_DECODERS: dict[int, Callable[[bytes], object]] = {
    1: _decode_int,
    3: _decode_date,
    4: _decode_clock,
    5: _decode_datetime,
    6: _decode_timedelta,
    7: lambda data: Decimal(data.decode()),
    8: _decode_uuid,
    9: _decode_complex,
    10: _decode_path,
    11: _decode_address,
    12: _decode_fraction,
    13: lambda data: range(*_decode_ints(data)),
}
