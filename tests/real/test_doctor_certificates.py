"""What the doctor reads of certificates of real servers, and that its advice replaces them while a site reads."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tests.real.trouble_tools import Site, reading
from tests.servers import Server, find_server, free_port, wait_for

from evercache import Cache
from evercache.errors import UnavailableError
from evercache.ops.doctor import Finding, examine, gather

pytestmark = pytest.mark.skipif(find_server("redis7") is None, reason="no server with TLS on this machine")


class Secured:
    """A node and a sentinel, each with its own certificate in its own file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.crt"))
        for name in ("node", "sentinel", "client"):
            self.issue(name, 90)
        self.port, self.sentinel_port = free_port(), free_port()
        self.node = Server.start("redis7", options={"tls-port": self.port, **self.options("node")})
        watched = (
            f"sentinel monitor mymaster 127.0.0.1 {self.port} 1\nsentinel down-after-milliseconds mymaster 60000\n"
        )
        self.sentinel = Server.start(
            "redis7",
            options={"tls-port": self.sentinel_port, "tls-replication": "yes", **self.options("sentinel")},
            sentinel_config=watched,
        )

    def options(self, name: str) -> dict[str, str]:
        return {
            "tls-cert-file": self.file(name),
            "tls-key-file": str(self.folder / f"{name}.key"),
            "tls-ca-cert-file": str(self.folder / "ca.crt"),
            "tls-auth-clients": "optional",
        }

    def file(self, name: str) -> str:
        return str(self.folder / f"{name}.crt")

    def issue(self, name: str, days: float, host: str = "127.0.0.1") -> datetime:
        """Put a new certificate into the files; returns when it ends."""
        ends = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
        made = self.ca.issue_cert(host, not_before=ends - timedelta(days=400), not_after=ends)
        made.cert_chain_pems[0].write_to_path(self.file(name))
        made.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))
        return ends

    @property
    def url(self) -> str:
        files = f"ssl_ca_certs={self.file('ca')}&ssl_certfile={self.file('client')}"
        return f"sentinels://127.0.0.1:{self.sentinel_port}/mymaster?{files}&ssl_keyfile={self.folder}/client.key"

    def found(self, check: str = "certificates") -> list[Finding]:
        (result,) = [one for one in examine(gather(self.url)) if one.check.name == check]
        return [one for one in result.findings if one.state == "found"]

    def close(self) -> None:
        self.sentinel.close()
        self.node.close()


@contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    made = Secured(folder)
    try:
        yield made
    finally:
        made.close()


def test_what_is_advised_replaces_certificates_while_a_site_reads(tmp_path: Path) -> None:
    site = Site()
    with secured(tmp_path) as servers:
        assert servers.found() == []
        ends = servers.issue("node", 20)
        servers.node.cli("CONFIG", "SET", "tls-cert-file", servers.file("node"))
        servers.issue("client", 5)
        with (
            Cache(servers.url, namespace="shop", on_error="raise", budget=5.0) as cache,
            reading(site.on(cache), 1) as answers,
        ):
            wait_for(lambda: len(answers.all) > 50, what="the site to read")
            node, client = servers.found()
            assert f"127.0.0.1:{servers.port}: its certificate ({servers.file('node')})" in node.seen
            assert f"ends on {ends:%Y-%m-%d %H:%M} UTC, in 20 days" in node.seen
            assert "in 5 days" in client.seen
            assert servers.file("client") in client.seen
            (command,) = re.findall(r"valkey-cli -h \S+ -p \d+ (CONFIG SET .*)", node.mend)
            process = servers.node.process
            servers.issue("node", 90)
            servers.issue("client", 90)
            servers.node.cli(*command.split())
            assert servers.found() == []
            assert servers.found("strain") == [], "to look is no load"
            count = len(answers.all)
            wait_for(lambda: len(answers.all) > count + 50, what="the site to read on")
        assert servers.node.process is process
        assert answers.errors == []
        servers.issue("sentinel", 3)
        servers.sentinel.restart()
        (sentinel,) = servers.found()
        assert f"127.0.0.1:{servers.sentinel_port}: its certificate ends" in sentinel.seen
        assert "restart this sentinel" in sentinel.mend
        servers.issue("sentinel", 90)
        servers.sentinel.restart()
        assert servers.found() == []


@pytest.mark.parametrize(
    ("days", "host", "words"),
    [(-2.0, "127.0.0.1", "ended on"), (90.0, "127.0.0.9", "is for 127.0.0.9, not for 127.0.0.1")],
)
def test_a_server_that_nobody_accepts_any_more_is_explained(
    days: float, host: str, words: str, tmp_path: Path
) -> None:
    with secured(tmp_path) as servers:
        servers.issue("node", days, host)
        servers.node.cli("CONFIG", "SET", "tls-cert-file", servers.file("node"))
        cache = Cache(servers.url, namespace="shop", on_error="raise", budget=1.0)
        with cache, pytest.raises(UnavailableError):
            cache.set("k", 1)
        (node,) = servers.found()
        assert words in node.seen
        assert "CONFIG SET tls-cert-file" in node.mend
        assert [one.cause for one in servers.found("reachable")] == ["certificates"]


def test_an_authority_that_ends_counts_as_well(tmp_path: Path) -> None:
    with secured(tmp_path) as servers:
        facts = gather(servers.url)
        assert [one.name for one in facts.client.authorities] == [facts.nodes[0].certificate.issuer]
        (authority,) = facts.client.authorities
        assert authority.ends > time.time() + 365 * 86400
        assert facts.client.certificate is not None


def test_without_tls_there_is_nothing_to_read(valkey: Server) -> None:
    facts = gather(valkey.url)
    assert all(one.certificate is None for one in facts.servers)
    (result,) = [one for one in examine(facts) if one.check.name == "certificates"]
    assert result.state == "fine"
