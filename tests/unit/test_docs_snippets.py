"""Every Python block in the README and the documents runs, and does what its assertions say."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evercache import Cache, testing

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
_FENCE = re.compile(r"^(?P<before><!-- not run: .+ -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)
_MODES: dict[str, Any] = {
    "evercache_memory": testing.memory,
    "evercache_off": testing.off,
    "evercache_record": testing.record,
}


@dataclass(frozen=True)
class Block:
    line: int
    code: str
    skipped: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, m.start("code")) + 1, m["code"], m["before"] is not None)
        for m in _FENCE.finditer(text)
    ]


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A module in which the blocks of one page run, on a cache in memory."""
    monkeypatch.delenv("EVERCACHE_URL", raising=False)
    monkeypatch.delenv("EVERCACHE_DISABLED", raising=False)
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    yield module.__dict__
    for value in list(module.__dict__.values()):
        if isinstance(value, Cache) or hasattr(value, "execute"):
            value.close()


def run(page: Path, block: Block, names: dict[str, Any]) -> None:
    before = set(names)
    # A reader has a server of their own; here is none, and a test never touches one that it did not start.
    source = "\n" * (block.line - 1) + block.code.replace("redis://localhost:6379", "memory://")
    exec(compile(source, str(page), "exec", dont_inherit=True), names)
    for name in set(names) - before:
        if name.startswith("test_"):
            with contextlib.ExitStack() as stack:
                wanted = inspect.signature(names[name]).parameters
                names[name](**{w: stack.enter_context(_MODES[w]()) for w in wanted})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, namespace: dict[str, Any]) -> None:
    for block in blocks(page):
        if not block.skipped:
            run(page, block, namespace)


def test_few_blocks_are_left_out() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) >= 20
    assert sum(block.skipped for block in found) <= 2


def test_a_block_that_fails_names_its_page_and_line(namespace: dict[str, Any]) -> None:
    page = ROOT / "docs" / "guide.md"
    with pytest.raises(AssertionError) as caught:
        run(page, Block(7, "x = 1\nassert x == 2\n", False), namespace)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 8)
