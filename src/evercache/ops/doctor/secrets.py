"""Nothing secret enters the facts: settings that hold one become "set" or "", and what the URL has is taken out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

__all__ = ["SET", "is_secret", "masked", "scrubbed"]

#: What stands in the place of a secret that is there.
SET = "set"

_SECRET = re.compile(r"(pass|auth$|auth-pass|secret|hash-seed|key-file-pass|aclfile-pass|^user$)", re.IGNORECASE)
_NOT_SECRET = frozenset({"aclfile"})

_T = TypeVar("_T")


def is_secret(name: str) -> bool:
    """Whether the setting of this name may hold a secret."""
    return name.lower() not in _NOT_SECRET and _SECRET.search(name) is not None


def masked(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings with "set" in the place of secrets; one that is not set stays empty."""
    return {name: (SET if value else "") if is_secret(name) else value for name, value in settings.items()}


def scrubbed(facts: _T, secrets: Iterable[str]) -> _T:
    """The same with `***` wherever one of these secrets stands in a text."""
    wanted = sorted({one for one in secrets if one}, key=len, reverse=True)
    if not wanted:
        return facts
    plain = _replaced(msgspec.to_builtins(facts), re.compile(f"(?:{'|'.join(map(re.escape, wanted))})"))
    return msgspec.convert(plain, type(facts))


def _replaced(value: object, pattern: re.Pattern[str]) -> object:
    if isinstance(value, str):
        # A whole word only: a short password must not tear holes into numbers and names.
        return "***" if pattern.fullmatch(value) else _within(value, pattern)
    if isinstance(value, dict):
        return {name: _replaced(one, pattern) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(one, pattern) for one in value]
    return value


def _within(value: str, pattern: re.Pattern[str]) -> str:
    return re.sub(rf"(?<![\w.]){pattern.pattern}(?![\w.])", "***", value)
