"""The command `evercache render`, as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evercache.ops import deploy
from evercache.ops.cli import main


@pytest.fixture
def file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The example, in a folder of its own."""
    assert main(["render", "--example"]) == 0
    path = tmp_path / "cache.toml"
    path.write_text(capsys.readouterr().out)
    return path


def run(file: Path, *more: str) -> int:
    return main(["render", str(file), "--for", "systemd", *more])


def test_from_the_example_to_files(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file) == 2
    assert "--generate-passwords makes those" in capsys.readouterr().err
    assert run(file, "--generate-passwords") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"next: {file.parent / 'rendered/cache-1/README.md'}" in err
    assert "49 new" in err
    secrets = [path.read_text().strip() for path in (file.parent / "passwords").iterdir()]
    assert len(secrets) == 5
    assert not [one for one in secrets if one in err]
    assert run(file) == 0
    assert "nothing has changed" in capsys.readouterr().err
    assert run(file, "--check") == 0


def test_a_change_is_shown_before_it_is_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(file, "--generate-passwords")
    file.write_text(file.read_text().replace('memory = "2gb"', 'memory = "1gb"'))
    node = file.parent / "rendered/cache-1/valkey.conf"
    capsys.readouterr()
    assert run(file, "--diff") == 0
    assert "+maxmemory 1gb" in capsys.readouterr().out
    assert run(file, "--check") == 1
    assert "changed: cache-1/valkey.conf" in capsys.readouterr().out
    assert "maxmemory 2gb" in node.read_text()
    assert run(file) == 0
    out, err = capsys.readouterr()
    assert "+maxmemory 1gb" in out
    assert "6 changed" in err
    assert "maxmemory 1gb" in node.read_text()
    assert not [path for path in (file.parent / "passwords").iterdir() if path.read_text().strip() in out]


def test_a_rewritten_file_stops_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(file, "--generate-passwords")
    sentinel = file.parent / "rendered/cache-1/sentinel.conf"
    sentinel.write_text(sentinel.read_text() + "sentinel current-epoch 1\n")
    assert run(file, "--replace-edited") == 9
    assert "a server runs on this file" in capsys.readouterr().err


def test_looking_makes_nothing(file: Path) -> None:
    for option in ("--check", "--diff"):
        assert run(file, "--generate-passwords", option) == 2
    assert [path.name for path in file.parent.iterdir()] == ["cache.toml"]


def test_what_cannot_work_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = file.read_text()
    file.write_text(text[: text.rindex("[[hosts]]")])
    assert run(file, "--generate-passwords") == 2
    assert "of two sentinels none has a majority" in capsys.readouterr().err
    assert not (file.parent / "passwords").exists()


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["name", "server", "passwords", "hosts"]


def test_certificates_are_made_beside_the_files(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("enabled = false", "enabled = true"))
    assert run(file, "--generate-passwords", "--test-certificates") == 0
    assert "13 files of certificates, for tests only" in capsys.readouterr().err
    for host in ("cache-1", "cache-2", "cache-3"):
        assert (file.parent / f"rendered/{host}/tls/tls.key").stat().st_mode & 0o777 == 0o600
    assert run(file, "--test-certificates") == 0
    assert "the certificates are good" in capsys.readouterr().err


def test_wrong_usage(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render"]) == 2
    assert main(["render", str(file)]) == 2
    assert main(["render", str(file), "--for", "cron"]) == 2
    assert main(["render", str(file.parent / "none.toml"), "--for", "systemd"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_every_variant_is_an_option() -> None:
    assert set(deploy.VARIANTS) == {"supervisor", "systemd", "compose", "kubernetes"}
