"""The documents say what the code says: settings, parameters, errors, counters, commands, rules, links."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import click
import pytest

import evercache
from evercache import AsyncCachedFunction, AsyncCachedMany, Cache, CachedFunction, CachedMany, errors, results
from evercache.errors import URLError
from evercache.observe import Counters
from evercache.ops.cli.commands import cli
from evercache.url import _ALL, _SCHEMES, parse_url

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
NAMES = sorted(page.name for page in ROOT.glob("docs/*.md"))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def in_code(text: str) -> set[str]:
    """Every word that stands between backticks."""
    spans = re.findall(r"`([^`\n]+)`", text)
    return {word for span in spans for word in re.findall(r"[A-Za-z_]\w*", span)}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.is_file(), f"{page.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(aim), f"{page.name}: no heading for {target}"


def test_every_document_is_in_the_index() -> None:
    index = text_of("docs/README.md")
    assert [name for name in NAMES if name != "README.md" and f"({name})" not in index] == []


# -- README


def test_the_readme_names_the_two_commands_first() -> None:
    commands = re.findall(r"^make \w+", text_of("README.md"), re.M)
    assert commands[:2] == ["make demo", "make test"]


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.M))
    named = {t for page in PAGES for t in re.findall(r"\bmake ([a-z]+)", _code(page))}
    assert {"demo", "test"} <= named <= targets


def _code(page: Path) -> str:
    """The shell blocks and the code spans of a page."""
    found = re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", page.read_text(encoding="utf-8"), re.S)
    return "\n".join(block or span for block, span in found)


@pytest.mark.parametrize("kind", [Cache, CachedFunction, AsyncCachedFunction, CachedMany, AsyncCachedMany])
def test_every_public_method_is_in_the_reference(kind: type) -> None:
    names = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
    assert names - in_code(text_of("docs/reference.md")) == set()


def test_every_option_of_the_decorator_is_in_the_reference_and_the_guide() -> None:
    options = set(inspect.signature(Cache._core_options).parameters) - {"self", "fn"}
    assert options - in_code(text_of("docs/reference.md")) == set()
    guide = text_of("docs/guide.md")
    assert {o for o in options if not re.search(rf"\b{o}\b", guide)} == set()


def test_every_command_is_named() -> None:
    assert isinstance(cli, click.Group)
    table = text_of("docs/reference.md").split("## Commands")[1]
    named = {
        word for cell in re.findall(r"^\| (`.+?`) \|", table, re.M) for word in re.findall(r"`([a-z-]+)`", cell)
    }
    assert named == set(cli.commands)
    assert set(re.findall(r"^evercache ([a-z-]+)", text_of("docs/tutorial.md"), re.M)) <= named


def test_everything_that_can_be_imported_is_in_the_reference() -> None:
    table = text_of("docs/reference.md").split("## Extras")[0]
    assert set(evercache.__all__) <= in_code(table)
    for module in re.findall(r"^\| `([a-z_.]+)` \|", table, re.M):
        importlib.import_module(module)


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/glossary.md", "CONTRIBUTING.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text_of(page)))
    assert len(named) >= 5
    roots = (ROOT, ROOT / "src", ROOT / "src/evercache")
    assert {name for name in named if not [place for root in roots for place in root.glob(name)]} == set()


# -- guide, URLs, errors, operations, protocol


def test_the_settings_and_their_defaults_are_in_the_guide() -> None:
    parameters = inspect.signature(Cache.__init__).parameters
    table = text_of("docs/guide.md").split("| `Cache(...)` |")[1].split("\n\n")[0]
    assert set(parameters) - {"self"} - in_code(table) == set()
    for name, shown in {
        "budget": "0.25",
        "default_ttl": "300",
        "max_staleness": "1",
        "lag_bound": "10",
        "max_compute": "300",
        "gutter": "1.5",
        "compress_above": "1024",
    }.items():
        assert float(parameters[name].default) == float(shown)
        row = next(line for line in table.splitlines() if f"`{name}`" in line)
        assert shown in row


def test_every_url_in_the_document_is_understood() -> None:
    found = re.findall(r"^```url\n(.*?)^```$", text_of("docs/urls.md"), re.M | re.S)
    urls = [line for block in found for line in block.splitlines()]
    assert len(urls) >= 15
    schemes = {url.partition("://")[0] for url in urls}
    assert schemes == set(_SCHEMES)
    for url in urls:
        assert parse_url(url).kind in ("memory", "standalone", "replicated", "sentinel")


def test_every_url_that_is_said_to_be_refused_is_refused() -> None:
    refused = re.findall(r"^\| `([^`]+)` \|", text_of("docs/urls.md").split("## What is refused")[1], re.M)
    assert len(refused) >= 8
    for url in refused:
        with pytest.raises(URLError):
            parse_url(url)


def test_every_url_in_the_tutorial_is_understood() -> None:
    urls = re.findall(r"^(?:sentinel|redis|memory)://\S*$", text_of("docs/tutorial.md"), re.M)
    assert len(urls) == 4
    for url in urls:
        parse_url(url)


def test_every_parameter_of_a_url_is_documented() -> None:
    assert set(_ALL) - in_code(text_of("docs/urls.md").split("## Parameters")[1]) == set()


def test_every_error_is_documented() -> None:
    rows = set(re.findall(r"^\| `(\w+)`", text_of("docs/errors.md"), re.M))
    assert rows | {"EvercacheError"} == set(errors.__all__)


def test_every_counter_and_field_is_documented() -> None:
    named = in_code(text_of("docs/operations.md"))
    assert set(Counters().as_dict()) - named == set()
    for kind in (results.Health, results.NodeHealth):
        assert set(kind.__dataclass_fields__) - named == set()
    assert set(results.Stats.__dataclass_fields__) - {"counters"} - named == set()


def test_every_rule_is_explained_once() -> None:
    rules = [int(number) for number in re.findall(r"\*\*Rule (\d+)\.", text_of("docs/protocol.md"))]
    assert sorted(rules) == list(range(1, 23))


def test_rules_that_the_code_names_exist() -> None:
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("src/**/*.lua")]
    named = {
        int(number)
        for source in sources
        for group in re.findall(r"\brules? ((?:\d+(?:, | and )?)+)", source.read_text(encoding="utf-8"))
        for number in re.findall(r"\d+", group)
    }
    assert named
    assert named <= set(range(1, 23))
