"""The settings of a PyBossa site, and `check`, which says what is risky in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from evercache.errors import ConfigurationError
from evercache.integrations.pybossa.__main__ import main
from evercache.integrations.pybossa.advice import advise, describe
from evercache.integrations.pybossa.decorators import DISABLED
from evercache.integrations.pybossa.settings import DEFAULTS, EXTRA, SiteSettings, as_mapping, load

GOOD: dict[str, Any] = {
    "REDIS_SENTINEL": [("a", 26379), ("b", 26379), ("c", 26379)],
    "REDIS_PASSWORD": "hush/hush@:%",
    "REDIS_SOCKET_TIMEOUT": 5,
    "REDIS_RETRY_ON_TIMEOUT": False,
    "SECRET_KEY": "sixteen or more bytes",
}


def test_the_defaults() -> None:
    settings = SiteSettings.read({})
    assert settings.location.kind == "sentinel"
    assert [str(a) for a in settings.location.sentinels] == ["localhost:26379"]
    assert settings.location.service == "mymaster"
    assert (settings.location.node_options.db, settings.prefix, settings.bookkeeping_db) == (0, "pybossa_cache", 15)
    assert (settings.socket_timeout, settings.budget) == (5.0, 0.25)
    assert settings == SiteSettings.read({"REDIS_SOCKET_TIMEOUT": None, "REDIS_SENTINEL": [["localhost", 26379]]})


def test_all_of_them() -> None:
    settings = SiteSettings.read(GOOD | {"REDIS_MASTER": "m", "REDIS_DB": 15, "REDIS_KEYPREFIX": "p"})
    options = settings.location.node_options
    assert (options.credentials.password, options.db, settings.bookkeeping_db) == ("hush/hush@:%", 15, 14)
    assert "hush" not in repr(settings)
    assert settings.secret == ("sixteen or more bytes",)


@pytest.mark.parametrize("values", [{"REDIS_HOST": "h"}, {"REDIS_PORT": 6379, "REDIS_SENTINEL": None},
                                    {"REDIS_SENTINEL": []}])  # fmt: skip
def test_without_sentinels_one_server_is_both(values: dict[str, Any]) -> None:
    settings = SiteSettings.read(values)
    assert settings.location.kind == "standalone"
    assert settings.location.nodes[0].port == 6379


def test_sentinels_go_before_a_host() -> None:
    assert SiteSettings.read(GOOD | {"REDIS_HOST": "h"}).location.kind == "sentinel"
    assert SiteSettings.read({"REDIS_SENTINEL": [("::1", 1)]}).location.sentinels[0].host == "::1"
    assert SiteSettings.read({"EVERCACHE_URL": "redis://u:p@h/3"}).location.node_options.db == 3


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"REDIS_SENTINEL": "localhost"}, "REDIS_SENTINEL"),
        ({"REDIS_SENTINEL": [("h@ush", 1)]}, "REDIS_SENTINEL"),
        ({"REDIS_SENTINEL": [("h", "x")]}, "port"),
        ({"REDIS_MASTER": "no name"}, "service name"),
        ({"REDIS_DB": "x"}, "REDIS_DB"),
        ({"REDIS_DB": -1}, "REDIS_DB"),
        ({"REDIS_SOCKET_TIMEOUT": 0}, "REDIS_SOCKET_TIMEOUT"),
        ({"REDIS_KEYPREFIX": 7}, "REDIS_KEYPREFIX"),
        ({"EVERCACHE_URL": "redis-cluster://h"}, "Cluster"),
        ({"EVERCACHE_SECRET_KEYS": ["short"]}, "EVERCACHE_SECRET_KEYS"),
        ({"EVERCACHE_BOOKKEEPING_DB": "x"}, "EVERCACHE_BOOKKEEPING_DB"),
        ({"EVERCACHE_OLD_KEYPREFIX": True}, "EVERCACHE_OLD_KEYPREFIX"),
        ({"EVERCACHE_MIGRATION_TTL": "x"}, "EVERCACHE_MIGRATION_TTL"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        SiteSettings.read(values)
    assert [finding.level for finding in advise(values, {})[1]] == ["error"]


def test_odd_prefixes_have_a_namespace_of_their_own() -> None:
    names = {
        SiteSettings.read({"REDIS_KEYPREFIX": p}).namespace for p in ("Site", "site", "my:site", "é", "x" * 60)
    }
    assert len(names) == 5


def test_sources_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class App:
        config: dict[str, Any] = {"REDIS_DB": 3}  # noqa: RUF012

    class Module:
        REDIS_DB = 3
        lower = 4

    assert as_mapping(App) == as_mapping(Module) == {"REDIS_DB": 3}
    file = tmp_path / "some_settings.py"
    file.write_text("REDIS_DB = 3\nlower = 4\n")
    assert load(str(file)) == {"REDIS_DB": 3}
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("some_settings") == {"REDIS_DB": 3}
    del sys.modules["some_settings"]
    with pytest.raises(ConfigurationError, match="no file"):
        load(str(tmp_path / "other.py"))


def texts(values: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    return "\n".join(f"{one.level}: {one.text}" for one in advise(values, environment or {})[1])


def test_advice() -> None:
    assert texts(GOOD) == ""
    assert "three" in texts(GOOD | {"REDIS_SENTINEL": [("a", 1)]})
    assert "no password" in texts(GOOD | {"REDIS_PASSWORD": None})
    assert "SECRET_KEY" in texts(GOOD | {"SECRET_KEY": "short"})
    assert "REDIS_SOCKET_TIMEOUT = 5" in texts(GOOD | {"REDIS_SOCKET_TIMEOUT": None})
    assert "long" in texts(GOOD | {"REDIS_SOCKET_TIMEOUT": 600})
    assert "may run twice" in texts(GOOD | {"REDIS_RETRY_ON_TIMEOUT": True})
    assert "keys()" in texts(GOOD | {"EVERCACHE_BOOKKEEPING_DB": 0})
    assert "run code here" in texts(GOOD | {"EVERCACHE_OLD_KEYPREFIX": "old"})
    assert "stop it first" in texts(GOOD | {"EVERCACHE_OLD_KEYPREFIX": "pybossa_cache"})
    assert "did you mean REDIS_SENTINEL?" in texts(GOOD | {"REDIS_SENTINELS": []})
    assert "nothing is cached" in texts(GOOD, {DISABLED: ""})
    assert "memory" in texts({"EVERCACHE_URL": "memory://"})
    assert "one server" in texts({"REDIS_HOST": "h"})
    settings = SiteSettings.read(GOOD | {"EVERCACHE_OLD_KEYPREFIX": "old"})
    assert "hush" not in "\n".join(describe(settings))
    assert "old" in describe(settings)[-1]


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pybossa.md").read_text(encoding="utf-8")
    assert [name for name in [*DEFAULTS, *EXTRA, DISABLED] if f"`{name}`" not in page] == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["check", *arguments])
    return code, capsys.readouterr().out


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLED, raising=False)
    file = tmp_path / "settings_local.py"
    lines = [f"{name} = {value!r}" for name, value in GOOD.items()]
    file.write_text("\n".join(lines))
    code, out = run(capsys, str(file), "--offline")
    assert code == 0
    assert "servers: redis+sentinel://:***@a:26379,b:26379,c:26379/mymaster" in out
    assert "hush" not in out
    file.write_text("\n".join([*lines, "REDIS_SENTINEL = [('a', 1)]"]))
    assert run(capsys, str(file), "--offline")[0] == 1
    file.write_text("\n".join([*lines, "REDIS_DB = 'x'"]))
    assert run(capsys, str(file), "--offline")[0] == 2
    file.write_text("PASSWORD = 'hush'\n1 / 0\n")
    code, out = run(capsys, str(file))
    assert (code, "ZeroDivisionError in line 2" in out, "hush" in out) == (2, True, False)
    assert run(capsys, str(tmp_path / "none.py"))[0] == 2
    assert run(capsys, "no_such_module_of_settings")[0] == 2
