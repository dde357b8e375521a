"""The Jinja tag: `{% cache timeout, name, *vary_on %}...{% endcache %}`; the time-out `'del'` deletes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from evercache.integrations.flask.names import Timeout, make_template_fragment_key, timeout_seconds
from evercache.integrations.flask.warn_once import logger

__all__ = ["CACHE_ATTRIBUTE", "CacheExtension"]

#: Where an environment of Jinja keeps its cache.
CACHE_ATTRIBUTE = "_template_fragment_cache"


class CacheExtension(Extension):
    """Without a name, the file and the line of the tag are one."""

    tags = {"cache"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Make of the tag a call of `_cache` with its body."""
        line = next(parser.stream).lineno
        expressions = [parser.parse_expression()]
        while parser.stream.skip_if("comma"):
            expressions.append(parser.parse_expression())
        timeout, *named = expressions
        name = named[0] if named else nodes.Const(f"{parser.filename}{line}")
        body = parser.parse_statements(("name:endcache",), drop_needle=True)
        call = self.call_method("_cache", [timeout, name, nodes.List(named[1:])])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _cache(
        self, timeout: Timeout | str | None, name: str, vary_on: list[str], caller: Callable[[], str]
    ) -> Any:
        cache = getattr(self.environment, CACHE_ATTRIBUTE)
        key = make_template_fragment_key(name, vary_on=vary_on)
        try:
            if timeout == "del":
                cache.delete(key)
                return caller()
            kept = cache.get(key)
        except Exception:
            if cache.app.debug:
                raise
            logger.exception("a fragment is rendered without the cache")
            return caller()
        if kept is None:
            kept = caller()
            cache.set(key, kept, timeout=timeout_seconds(timeout))
        return kept
