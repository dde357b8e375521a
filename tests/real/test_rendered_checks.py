"""What `evercache render` makes, before judges of others: systemd, the schemas of Compose and Kubernetes, sh."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.descriptions import PASSWORDS, changed, three

from evercache.ops import deploy

TLS = {"enabled": True}


def rendered(variant: str, **more: Any) -> dict[str, str]:
    values = three(**more)
    if variant == "kubernetes":
        changed(values, *({"address": f"cache-{n}.default.svc.cluster.local"} for n in (1, 2, 3)))
    return deploy.render(deploy.parse(values), PASSWORDS, variant)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)
def test_the_units_pass_the_check_of_systemd(tmp_path: Path) -> None:
    files = rendered("systemd", server={"binary": shutil.which("sh")}, paths={"user": "root"})
    units = []
    for path, text in files.items():
        if path.startswith("cache-1/systemd/"):
            units.append(tmp_path / path.rpartition("/")[2])
            units[-1].write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    node = next(str(one) for one in units if one.name.endswith("-node.service"))
    rating = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", node]
    done = subprocess.run(rating, capture_output=True, text=True, timeout=50, check=False)
    if "unrecognized option" not in done.stderr:  # before version 250
        assert done.returncode == 0, done.stdout[-300:]


def test_compose_passes_its_schema(tmp_path: Path) -> None:
    paths = []
    for number, tls in enumerate(({}, {**TLS, "client_certificates": True})):
        for path, text in rendered("compose", tls=tls).items():
            if path.endswith("compose.yaml"):
                paths.append(tmp_path / f"{number}-{path.replace('/', '-')}")
                paths[-1].write_text(text)
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        *map(str, paths),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_kubernetes_manifests_pass_their_schema(tmp_path: Path) -> None:
    pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    paths = []
    for path, text in rendered("kubernetes", tls=TLS, kubernetes={"storage_class": "fast"}).items():
        if path.endswith(".yaml"):
            paths.append(tmp_path / path.replace("/", "-"))
            paths[-1].write_text(text)
    command = [sys.executable, "-W", "ignore", "-m", "kubernetes_validate", "--strict", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shell_scripts_are_shell() -> None:
    for variant in ("supervisor", "systemd", "compose"):
        for path, text in rendered(variant).items():
            if path.endswith(".sh"):
                done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
                assert (done.returncode, done.stderr) == (0, ""), path
