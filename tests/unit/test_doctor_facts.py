"""Facts in a file, and secrets that are in none."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.doctor_facts import config, sound

from evercache.errors import ConfigurationError
from evercache.ops.doctor import examine, load, merged, save
from evercache.ops.doctor.facts import Facts, is_loopback
from evercache.ops.doctor.secrets import masked, scrubbed
from evercache.ops.doctor.snapshot import dump


def test_what_is_saved_is_examined_elsewhere(tmp_path: Path) -> None:
    facts = config(1, {"appendonly": None})(sound())
    save(facts, tmp_path / "facts.json")
    again = load(tmp_path / "facts.json")
    assert again == facts
    assert examine(again) == examine(facts)
    assert stat.S_IMODE((tmp_path / "facts.json").stat().st_mode) == 0o600


def test_the_hosts_of_several_files_are_put_together() -> None:
    facts = sound()
    parts = [replace(facts, hosts=(host,)) for host in facts.hosts]
    assert merged(parts) == facts
    kernel = next(one for one in examine(merged(parts[:2])) if one.check.name == "kernel")
    assert [one.seen for one in kernel.findings] == ["the kernel of 10.0.0.3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no facts"),
        ("[]", "holds no facts"),
        ('{"format": 1}', "holds no facts"),
        ('{"format": 99, "client": {}}', "another version of evercache"),
    ],
)
def test_a_file_that_holds_no_facts(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load(tmp_path / "facts.json")


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        save(sound(), tmp_path / "none" / "facts.json")


@pytest.mark.parametrize(
    "name",
    [
        "requirepass",
        "masterauth",
        "primaryauth",
        "tls-key-file-pass",
        "tls-client-key-file-pass",
        "sentinel-pass",
        "hash-seed",
        "user",
    ],
)
def test_a_setting_that_holds_a_secret_is_only_said_to_be_set(name: str) -> None:
    assert masked({name: "hunter2", "other": "hunter2"}) == {name: "set", "other": "hunter2"}
    assert masked({name: ""}) == {name: ""}


def test_a_password_of_the_url_is_nowhere() -> None:
    facts = config(0, {"proc-title-template": "{title} hunter2", "dir": "hunter2"})(sound())
    text = dump(scrubbed(facts, ["hunter2", "hunter2!"]))
    assert "hunter2" not in text
    assert text.count("***") == 2
    assert scrubbed(facts, []) == facts
    # A short one tears no holes into what it happens to be part of.
    kept = json.loads(dump(scrubbed(facts, ["1"])))
    assert kept["nodes"][0]["address"]["host"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.3", True), ("-::1", True), ("*", False), ("10.0.0.1", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_the_newest_epoch_names_the_master() -> None:
    facts = sound()
    assert str(facts.master) == "10.0.0.1:6379"
    assert facts.master_node is facts.nodes[0]
    assert Facts(facts.client).master is None
