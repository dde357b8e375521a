"""The JSON schema of the description, made from the classes that define it."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args, get_origin

from evercache.ops.deploy.description import SIZE, Description, Secret
from evercache.ops.deploy.reading import type_of

__all__ = ["schema", "schema_text"]

_TYPES = {str: "string", int: "integer", bool: "boolean"}


def schema() -> dict[str, Any]:
    """Of the whole file. Editors know settings, forms and meanings by it; `sound` knows what can work."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A deployment for `evercache render`",
        **_table(Description),
    }


def schema_text() -> str:
    """For editors and checkers."""
    return json.dumps(schema(), indent=2) + "\n"


def _table(kind: Any) -> dict[str, Any]:
    types = type_of(kind)
    every = fields(kind)
    required = [one.name for one in every if one.default is MISSING and one.default_factory is MISSING]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {one.name: _one(types[one.name], one) for one in every},
        **({"required": required} if required else {}),
    }


def _one(kind: Any, one: Field[Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": one.metadata["help"]}
    if one.default is not MISSING and one.default is not None and one.default != "" and one.default != ():
        told["default"] = one.default
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        told |= {"type": "array", "items": _table(inner) if is_dataclass(inner) else _plain(str, one)}
        return told
    return told | _plain(kind, one)


def _plain(kind: Any, one: Field[Any]) -> dict[str, Any]:
    if kind is Secret:
        return {"type": "string", "pattern": "^(file:[^\\n\\u0000]+|env:[A-Za-z_][A-Za-z0-9_]*)$"}
    if is_dataclass(kind):
        return _table(kind)
    rules = one.metadata
    if rules.get("kind") == "size":
        return {"type": "string", "pattern": f"^({SIZE})$"}
    found: dict[str, Any] = {"type": _TYPES[kind]}
    if "choices" in rules:
        found["enum"] = list(rules["choices"])
    if "pattern" in rules:
        found["pattern"] = f"^({rules['pattern']})$"
    if "least" in rules:
        found |= {"minimum": rules["least"], "maximum": rules["most"]}
    return found
