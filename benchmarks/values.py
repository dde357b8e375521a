"""What is cached: values such as a site has, by their size as JSON."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["article", "product", "rows"]

_WORDS = (
    "the",
    "cache",
    "of",
    "a",
    "site",
    "keeps",
    "what",
    "is",
    "dear",
    "to",
    "compute",
    "and",
    "asked",
    "for",
    "often",
)


def product(number: int) -> dict[str, Any]:
    """About 200 bytes, flat."""
    return {
        "id": number,
        "name": f"Espresso cup no. {number}",
        "slug": f"espresso-cup-{number}",
        "maker": "Porcelain works, Langenthal",
        "price": 1290 + number,
        "weight": 0.185,
        "in_stock": True,
        "colour": "white",
        "updated": "2026-03-01T12:00:00Z",
    }


def article(number: int, size: int = 10_000) -> dict[str, Any]:
    """One long text among a few short fields: about `size` bytes."""
    draw = random.Random(number)
    text = ""
    while len(text) < size - 150:
        text += draw.choice(_WORDS) + " "
    return {**{name: product(number)[name] for name in ("id", "name", "slug", "updated")}, "text": text}


def rows(number: int, count: int = 50) -> dict[str, Any]:
    """A list of `count` rows of about 200 bytes: what a query gave."""
    return {"total": count, "rows": [product(number + each) for each in range(count)]}
