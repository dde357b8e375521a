"""`{% load evercache %}`: Django's `{% cache %}`, computed once for all who ask, with tags."""

from __future__ import annotations

from typing import Any

from django import template
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.utils import make_template_fragment_key
from django.template.base import FilterExpression, NodeList, Parser, Token
from django.utils.safestring import SafeString

from evercache.integrations.django.backend import Cache

register = template.Library()


class CacheNode(template.Node):
    """A part of a page that is kept."""

    def __init__(
        self,
        nodelist: NodeList,
        timeout: FilterExpression,
        name: str,
        vary: list[FilterExpression],
        options: dict[str, FilterExpression],
    ) -> None:
        self.nodelist, self.timeout, self.name, self.vary, self.options = nodelist, timeout, name, vary, options

    def render(self, context: Any) -> SafeString:
        """What is kept, or the nodes inside, rendered."""
        timeout = self.timeout.resolve(context)
        if timeout is not None and not isinstance(timeout, (int, float)):
            try:
                timeout = int(timeout)
            except (TypeError, ValueError):
                raise template.TemplateSyntaxError(
                    f'"cache" tag got a non-integer timeout value: {timeout!r}'
                ) from None
        options = {name: expression.resolve(context) for name, expression in self.options.items()}
        backend = _backend(options.get("using"))
        key = make_template_fragment_key(self.name, [each.resolve(context) for each in self.vary])

        def rendered() -> str:
            return "".join((self.nodelist.render(context),))  # a plain text, which needs no pickle

        if isinstance(backend, Cache):
            tags = options.get("tags") or ()
            found = backend.get_or_set(key, rendered, timeout, tags=tags.split() if isinstance(tags, str) else tags)
        else:
            found = backend.get_or_set(key, rendered, timeout)
        return SafeString(found)


def _backend(using: str | None) -> Any:
    if using:
        try:
            return caches[using]
        except InvalidCacheBackendError:
            raise template.TemplateSyntaxError(f"Invalid cache name specified for cache tag: {using!r}") from None
    try:
        return caches["template_fragments"]
    except InvalidCacheBackendError:
        return caches["default"]


@register.tag("cache")
def cache(parser: Parser, token: Token) -> CacheNode:
    """`{% cache 300 name vary... tags="project:7 user:3" using="alias" %} ... {% endcache %}`.

    As Django's; `tags` are a text with spaces in between, or a list.
    """
    nodelist = parser.parse(("endcache",))
    parser.delete_first_token()
    _, *words = token.split_contents()
    options: dict[str, FilterExpression] = {}
    while len(words) > 2 and words[-1].partition("=")[0] in ("tags", "using") and "=" in words[-1]:
        name, _, value = words.pop().partition("=")
        options[name] = parser.compile_filter(value)
    if len(words) < 2:
        raise template.TemplateSyntaxError("'cache' tag requires at least 2 arguments.")
    return CacheNode(
        nodelist,
        parser.compile_filter(words[0]),
        words[1],
        [parser.compile_filter(word) for word in words[2:]],
        options,
    )
