"""The example of moving from Flask-Caching: the document shows the true diff, and both applications do the same."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.servers import Deployment, wait_for

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "flask-caching-migration"


def load(name: str, servers: Deployment, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A new copy of the module, on these servers. `import only`: before.py with the import of after.py."""
    sentinels = [["127.0.0.1", server.port] for server in servers.sentinels]
    monkeypatch.setenv("FLASK_CACHE_REDIS_SENTINELS", json.dumps(sentinels))
    monkeypatch.setenv("FLASK_CACHE_REDIS_SENTINEL_MASTER", servers.name)
    monkeypatch.setenv("FLASK_EVERCACHE_URL", servers.url)
    text = (EXAMPLE / f"{name}.py").read_text() if name != "import only" else (EXAMPLE / "before.py").read_text()
    if name == "import only":
        monkeypatch.delenv("FLASK_EVERCACHE_URL")
        text = text.replace("from flask_caching import", "from evercache.integrations.flask import")
    module = ModuleType(f"example_{name}")
    exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
    return module


def walk(shop: ModuleType) -> list[tuple[str, int, str, dict[str, int]]]:
    """Visits and an edit: the address, the status, the text, and what was computed for it."""
    seen = []
    client = shop.app.test_client()
    kettle = {"price": 11.0, "kind": "tea"}
    for address, told in [
        ("/", None),
        ("/", None),
        ("/search?kind=kitchen", None),
        ("/search?kind=light", None),
        ("/search?kind=kitchen", None),
        ("/product/1", None),
        ("/product/1", None),
        ("/product/1", kettle),
        ("/", None),
        ("/search?kind=tea", None),
        ("/product/1", None),
        ("/product/2", None),
    ]:
        shop.asked.clear()
        response: Any = client.get(address) if told is None else client.put(address, json=told)
        seen.append((address, response.status_code, response.text, dict(shop.asked)))
    return seen


def test_the_document_shows_the_true_diff() -> None:
    texts = [(EXAMPLE / name).read_text().splitlines() for name in ("before.py", "after.py")]
    true = list(difflib.unified_diff(*texts, "before.py", "after.py", lineterm=""))
    document = (ROOT / "docs" / "migrate-from-flask-caching.md").read_text()
    shown = re.findall(r"^```diff\n(--- before\.py\n.*?)^```$", document, re.M | re.S)
    assert [block.splitlines() for block in shown] == [true]


def test_both_answer_alike_and_compute_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask_caching")
    with Deployment.start(replicas=0, sentinels=1) as servers:
        before, after, only = (load(name, servers, monkeypatch) for name in ("before", "after", "import only"))
        seen = walk(before)
        assert walk(after) == seen
        after.cache.clear()  # they are one application, so they share entries
        assert walk(only) == seen
        assert only.cache.cache.evercache.health().url == after.cache.cache.evercache.health().url
        for shop in (after, only):
            shop.cache.cache.evercache.close()
        for client in (before.cache.cache._write_client, before.cache.cache._read_client):
            client.close()
    computed = [asked for _, _, _, asked in seen]
    assert computed[0] == {"front": 1, "kinds": 1, "price": 3}
    assert computed[1] == computed[4] == computed[6] == {}, "what was kept"
    assert computed[8] == {"front": 1, "kinds": 1, "price": 1}, "what was deleted, and nothing else"
    assert "Kettle: 11.0 EUR" in seen[8][2]
    assert "light, tea" in seen[8][2], "the fragment, too"
    assert {status for _, status, _, _ in seen} == {200}


def test_without_any_server_the_new_one_answers_and_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with Deployment.start(replicas=1, sentinels=1) as servers:
        shop = load("after", servers, monkeypatch)
        with_servers = walk(shop)
        status = shop.app.test_cli_runner()
        well = wait_for(lambda: (seen := status.invoke(args=["cache", "status"])).exit_code == 0 and seen)
        for server in [*servers.sentinels, *servers.nodes]:
            server.kill()
        monkeypatch.setattr(shop, "PRICES", {1: 10.0, 2: 20.0, 3: 30.0})
        monkeypatch.setattr(shop, "KINDS", {1: "kitchen", 2: "light", 3: "kitchen"})
        shop.cache.delete_memoized(shop.price)
        shop.cache.delete_memoized(shop.found)
        shop.cache.delete_many("front", shop.make_template_fragment_key("menu"))
        without = walk(shop)

        def problems() -> list[str]:
            ill = status.invoke(args=["cache", "status"])
            assert ill.exit_code == 1
            return [line for line in ill.output.splitlines() if line.startswith("  ! ")]

        for server in [*servers.sentinels, *servers.nodes]:
            wait_for(lambda port=server.port: any(f":{port}" in line for line in problems()), 10, "it to be named")
        wait_for(lambda: any("no sentinel of" in line for line in problems()), 10)
        shop.cache.cache.evercache.close()
    assert [seen[:2] for seen in without] == [seen[:2] for seen in with_servers], "each page, and the edit"
    assert "Kettle: 11.0 EUR" in without[8][2]
    assert ": well" in well.output
