"""The files that servers, hosts and clusters are configured by, as Jinja2 templates beside this module."""

from __future__ import annotations

import functools
import json
import shlex
from typing import TYPE_CHECKING, Any

from evercache.errors import PackageMissing

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["fill"]


def fill(template: str, **values: object) -> str:
    """Render a template of this folder with `values`; each variable that it names must be among them."""
    return _environment().get_template(f"{template}.j2").render(values)


@functools.cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise PackageMissing("configuration files need jinja2: run  pip install 'evercache[deploy]'") from error

    environment = Environment(
        loader=PackageLoader("evercache.ops", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Shell scripts, YAML and configuration files: each value is quoted by the filter for its place.
        autoescape=False,
    )
    environment.filters |= {"conf": _conf, "json": _json, "sh": _sh}
    return environment


def _conf(path: Any) -> str:
    """Quote a path for the configuration file of a server."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _json(value: Any) -> str:
    """Quote a value for YAML, which includes JSON."""
    return json.dumps(value)


def _sh(text: Any) -> str:
    """Quote a word for a shell."""
    return shlex.quote(str(text))
