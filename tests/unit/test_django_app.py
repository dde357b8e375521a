"""What the application adds to a site: checks, `manage.py evercache`, and the template tag."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.template import Context, Template, TemplateSyntaxError
from django.test import override_settings
from tests.unit.django_site import BACKEND, caches_setting

from evercache.testing import MemoryStores, memory


@pytest.fixture(autouse=True)
def stores() -> Iterator[MemoryStores]:
    with memory() as stores, override_settings(CACHES=caches_setting()):
        yield stores


def told(setting: Any, *, deploy: bool = True) -> set[str]:
    with override_settings(CACHES=setting):
        return {str(message.id) for message in run_checks(tags=["caches"], include_deployment_checks=deploy)}


@pytest.mark.parametrize(
    ("setting", "ids"),
    [
        (caches_setting("redis://:secret@a", KEY_PREFIX="shop"), set()),
        (caches_setting("redis://a", KEY_PREFIX="shop"), {"evercache.W003"}),
        (caches_setting("redis://:secret@a"), {"evercache.W004"}),
        (caches_setting("memory://"), {"evercache.W002"}),
        (caches_setting("redis://a:b:c"), {"evercache.E001"}),
        (caches_setting("redis://a", OPTIONS={"max_tll": 1}), {"evercache.E001"}),
        ({"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}, {"evercache.W001"}),
    ],
)
def test_checks_name_mistakes_and_risks(setting: Any, ids: set[str]) -> None:
    assert told(setting) == ids
    assert told(setting, deploy=False) == ids & {"evercache.E001"}


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("evercache", *arguments, stdout=out)
    return out.getvalue()


def test_commands_on_entries() -> None:
    cache: Any = caches["default"]
    cache.set("k", [1], 60, tags=["t"])
    cache.set("for-ever", "x" * 300, None)
    assert run("explain", "k", "for-ever", "none").splitlines()[:3] == [
        "k: expires in 60 s",
        "  [1]",
        "for-ever: does not expire",
    ]
    assert "none: not cached" in run("explain", "none")
    assert "what has the tag t is ended" in run("invalidate", "t")
    assert (cache.get("k"), cache.get("for-ever")) == (None, "x" * 300)
    run("clear")
    assert cache.get("for-ever") is None


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["invalidate"], "name a tag"),
        (["status"], "there are no servers to ask"),
        (["--alias", "local", "clear"], "no cache of this library"),
    ],
)
def test_mistakes_of_a_command_are_named(arguments: list[str], mend: str) -> None:
    setting = caches_setting() | {"local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with override_settings(CACHES=setting), pytest.raises(CommandError, match=mend):
        run(*arguments)


def render(text: str, **context: Any) -> str:
    return Template("{% load evercache %}" + text).render(Context(context))


def test_the_tag_keeps_a_fragment() -> None:
    text = "{% cache 300 part user tags='project:7 user' %}{{ n }}{{ html|safe }}{% endcache %}"
    assert render(text, user=1, n=1, html="<b>") == "1<b>"
    assert render(text, user=1, n=2) == "1<b>"
    assert render(text, user=2, n=3) == "3"
    cache: Any = caches["default"]
    cache.invalidate_tag("project:7")
    assert render(text, user=1, n=4) == "4"


def test_the_tag_takes_another_alias_and_names_mistakes() -> None:
    local = {"local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    second = {"second": {"BACKEND": BACKEND, "LOCATION": "memory://", "KEY_PREFIX": "second"}}
    with override_settings(CACHES=caches_setting() | local | second):
        for alias in ("local", "second"):
            text = f"{{% cache None part using='{alias}' %}}{{{{ n }}}}{{% endcache %}}"
            assert (render(text, n=1), render(text, n=2)) == ("1", "1")
        for wrong in (
            "{% cache 300 %}{% endcache %}",
            "{% cache seconds part %}{% endcache %}",
            "{% cache 300 part using='none' %}{% endcache %}",
        ):
            with pytest.raises(TemplateSyntaxError):
                render(wrong, seconds="x")
