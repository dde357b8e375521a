"""TLS of both wires: certificates are checked, names too; the server stands behind a TLS proxy."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from tests.real.wire_peers import Caller, Peer, relay
from tests.server import wait_for
from tests.servers import Deployment, Server

from evercache import Cache
from evercache.errors import ConfigurationError, ConnectionFailed, UnavailableError
from evercache.net.types import TLSOptions
from evercache.ops.doctor import examine, gather
from evercache.ops.remote import targets_of
from evercache.ops.survey import survey
from evercache.protocol.types import Address

Mapped = Callable[[Address], Address]
#: What OpenSSL says of a certificate for another name, of hosts and of addresses.
WRONG_NAME = re.compile("mismatch|not valid for", re.IGNORECASE)


@dataclass
class Authority:
    folder: Path
    ca: trustme.CA
    ca_file: str

    def server(self, *names: str, clients: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names).configure_cert(context)
        if clients:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> tuple[str, str]:
        cert = self.ca.issue_cert("client@example.org")
        cert.cert_chain_pems[0].write_to_path(str(self.folder / "client.pem"))
        cert.private_key_pem.write_to_path(str(self.folder / "client.key"))
        return str(self.folder / "client.pem"), str(self.folder / "client.key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("ca")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    return Authority(folder, ca, str(folder / "ca.pem"))


@pytest.fixture(params=["blocking", "pipelined"])
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    one = Caller(request.param)
    yield one
    one.close()


def test_trusted(caller: Caller, valkey: Server, authority: Authority) -> None:
    with Peer(relay(valkey.port, tls=authority.server("localhost", "127.0.0.1"))) as peer:
        for host in ("localhost", "127.0.0.1"):
            endpoint = caller.endpoint(Address(host, peer.address.port), tls=TLSOptions(authority.ca_file))
            big = os.urandom(3_000_000)
            for _ in range(3):
                assert caller.execute(endpoint, ("SET", "k", big), ("GET", "k")) == [b"OK", big]
        assert peer.accepted == 2
        caller.close()


def test_not_trusted(caller: Caller, valkey: Server, authority: Authority) -> None:
    other = authority.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with Peer(relay(valkey.port, tls=authority.server("elsewhere.example"))) as peer:
        for options, message in (
            (TLSOptions(str(other)), "self.signed|unable to get local issuer"),
            (TLSOptions(), "TLS failed"),
            (TLSOptions(authority.ca_file), "(?i)mismatch|not valid for"),
        ):
            with pytest.raises(ConnectionFailed, match=message) as caught:
                caller.execute(caller.endpoint(peer.address, tls=options), ("PING",))
            assert caught.value.maybe_run is False
        for options in (TLSOptions(authority.ca_file, check_hostname=False), TLSOptions(verify=False)):
            assert caller.execute(caller.endpoint(peer.address, tls=options), ("PING",)) == [b"PONG"]
        caller.close()


def test_client_certificates(caller: Caller, valkey: Server, authority: Authority) -> None:
    cert, key = authority.client()
    with Peer(relay(valkey.port, tls=authority.server("127.0.0.1", clients=True))) as peer:
        with_cert = caller.endpoint(peer.address, tls=TLSOptions(authority.ca_file, cert, key))
        assert caller.execute(with_cert, ("PING",)) == [b"PONG"]
        without = caller.endpoint(peer.address, tls=TLSOptions(authority.ca_file))
        with pytest.raises(ConnectionFailed):
            caller.execute(without, ("PING",))
        caller.close()


def test_a_peer_that_never_shakes_hands(caller: Caller, valkey: Server, authority: Authority) -> None:
    def read_only(connection: socket.socket) -> None:
        while connection.recv(1000):
            pass

    with Peer(read_only) as silent:
        endpoint = caller.endpoint(silent.address, tls=TLSOptions(authority.ca_file), connect_timeout=0.2)
        start = time.monotonic()
        with pytest.raises(ConnectionFailed):
            caller.execute(endpoint, ("PING",))
        assert time.monotonic() - start < 1
    # A server without TLS: not understood, not waited for.
    plain = caller.endpoint(valkey.address, tls=TLSOptions(authority.ca_file), connect_timeout=1)
    with pytest.raises(ConnectionFailed):
        caller.execute(plain, ("PING",))


NO_TLS = "does not speak TLS on this port: use redis:// or sentinel://"
SPEAKS_TLS = "it speaks TLS on this port: use rediss:// or sentinels://"


def test_one_side_speaks_tls_and_the_other_does_not(caller: Caller, valkey: Server, authority: Authority) -> None:
    """A plain server waits for the rest of a command, and a TLS server hangs up: neither says why."""
    secure = caller.endpoint(valkey.address, tls=TLSOptions(authority.ca_file), connect_timeout=0.3)
    with pytest.raises(ConnectionFailed, match=NO_TLS) as caught:
        caller.execute(secure, ("PING",))
    assert caught.value.maybe_run is False
    with Peer(relay(valkey.port, tls=authority.server("127.0.0.1"))) as peer:
        for host in ("localhost", "127.0.0.1"):
            plain = caller.endpoint(Address(host, peer.address.port), connect_timeout=0.3)
            with pytest.raises(ConnectionFailed, match=SPEAKS_TLS):
                caller.execute(plain, ("PING",))
        caller.close()


def test_other_failures_are_no_mismatch(caller: Caller, valkey: Server, authority: Authority) -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(1000)

    with Peer(hang_up) as peer:
        for tls in (None, TLSOptions(authority.ca_file)):
            with pytest.raises(ConnectionFailed) as caught:
                caller.execute(caller.endpoint(peer.address, tls=tls, connect_timeout=0.3), ("PING",))
            assert "speak" not in str(caught.value)
    with Peer(relay(valkey.port, tls=authority.server("elsewhere.example"))) as peer:
        before = peer.accepted
        with pytest.raises(ConnectionFailed, match="TLS failed"):
            caller.execute(caller.endpoint(peer.address, tls=TLSOptions(authority.ca_file)), ("PING",))
        assert peer.accepted == before + 1, "a wrong certificate says all: nobody is asked again"
        caller.close()


def test_a_server_that_was_reached_is_not_asked_again(caller: Caller, valkey: Server, authority: Authority) -> None:
    """In a failover each second connection would be one too many."""
    serves = [relay(valkey.port)]
    with Peer(lambda connection: serves[-1](connection)) as peer:
        endpoint = caller.endpoint(peer.address, connect_timeout=0.3)
        assert caller.execute(endpoint, ("PING",)) == [b"PONG"]
        serves.append(lambda connection: None)
        endpoint.disconnect()
        caller.settle()
        before = peer.accepted
        with pytest.raises(ConnectionFailed):
            caller.execute(endpoint, ("PING",))
        assert peer.accepted == before + 1
        caller.close()


def test_a_cache_and_the_tools_name_the_mismatch(valkey: Server, authority: Authority) -> None:
    with Peer(relay(valkey.port, tls=authority.server("127.0.0.1"))) as peer:
        for url, words in (
            (f"rediss://127.0.0.1:{valkey.port}", NO_TLS),
            (f"redis://127.0.0.1:{peer.address.port}", SPEAKS_TLS),
        ):
            with Cache(url, on_error="raise", budget=1) as cache:
                wait_for(lambda: words in answer(cache), what="an error that names the mismatch")  # noqa: B023
                assert any(words in problem for problem in cache.health().problems)
            facts = gather(url)
            ((finding,),) = [one.findings for one in examine(facts) if one.check.name == "reachable"]
            assert words in finding.seen
            assert finding.mend.startswith(words.partition(": ")[2])
            assert any(words in problem for problem in survey(targets_of(url)).problems)


def test_a_fork_says_nothing_to_the_server(caller: Caller, valkey: Server, authority: Authority) -> None:
    with Peer(relay(valkey.port, tls=authority.server("127.0.0.1"))) as peer:
        endpoint = caller.endpoint(peer.address, tls=TLSOptions(authority.ca_file))
        caller.execute(endpoint, ("SET", "k", "v"))
        child = os.fork()
        if child == 0:
            try:
                endpoint.forget()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert caller.execute(endpoint, ("GET", "k")) == [b"v"]
        assert peer.accepted == 1
        caller.close()


def test_files_that_cannot_be_used(caller: Caller, authority: Authority) -> None:
    junk = authority.folder / "junk.pem"
    junk.write_text("no certificate")
    for options, message in (
        (TLSOptions("/no/such/ca.pem"), r"/no/such/ca.pem: cannot be read"),
        (TLSOptions(str(junk)), "ssl_ca_certs=.*not a PEM file"),
        (TLSOptions(certfile=str(junk)), "ssl_certfile=.*with its key"),
        (TLSOptions(keyfile=str(junk)), "ssl_keyfile without"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            caller.endpoint(Address("h"), tls=options)
    with pytest.raises(ConfigurationError, match="use one of the two"):
        caller.endpoint(Address("", 0, path="/s"), tls=TLSOptions())


def test_rotated_files_are_read_again(caller: Caller, valkey: Server, tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    old, new = trustme.CA(), trustme.CA()
    old.cert_pem.write_to_path(str(trusted))
    context = Authority(tmp_path, new, str(trusted)).server("127.0.0.1")
    with Peer(relay(valkey.port, tls=context)) as peer:
        endpoint = caller.endpoint(peer.address, tls=TLSOptions(str(trusted)))
        with pytest.raises(ConnectionFailed, match="TLS failed"):
            caller.execute(endpoint, ("PING",))
        trusted.unlink()
        with pytest.raises(ConnectionFailed, match="cannot be read"):
            caller.execute(endpoint, ("PING",))
        new.cert_pem.write_to_path(str(trusted))
        os.utime(trusted, ns=(1, 1))  # whatever the clock of the file system resolves
        assert caller.execute(endpoint, ("PING",)) == [b"PONG"]
        caller.close()


@contextlib.contextmanager
def behind_tls(
    deployment: Deployment, contexts: dict[int, ssl.SSLContext], usual: ssl.SSLContext
) -> Iterator[Mapped]:
    """A TLS proxy before every node and sentinel, and the map from the announced addresses to them."""
    with contextlib.ExitStack() as stack:
        relays = {
            server.port: stack.enter_context(Peer(relay(server.port, tls=contexts.get(server.port, usual))))
            for server in (*deployment.nodes, *deployment.sentinels)
        }
        yield lambda address: relays[address.port].address if address.port in relays else address


def url_of(deployment: Deployment, mapped: Mapped, ca_file: str) -> str:
    sentinels = ",".join(str(mapped(one.address)) for one in deployment.sentinels)
    login = f"sentinel_password={deployment.sentinel_password}&connect_timeout=5"
    return f"sentinels://:{deployment.password}@{sentinels}/{deployment.name}?ssl_ca_certs={ca_file}&{login}"


def answer(cache: Cache) -> str:
    """What a write brings: empty, or the error."""
    try:
        cache.set("k", "v")
    except UnavailableError as error:
        return str(error)
    return ""


def test_nodes_and_sentinels(deployment: Deployment, authority: Authority) -> None:
    """A whole cache, in which every connection is encrypted and every name is checked."""
    with behind_tls(deployment, {}, authority.server("127.0.0.1")) as mapped:
        url = url_of(deployment, mapped, authority.ca_file)
        with Cache(url, address_map=mapped, budget=5, on_error="raise") as cache:
            wait_for(lambda: answer(cache) == "", what="a write over TLS")
            assert cache.get("k") == "v"
            wait_for(lambda: cache.health().ok, what="every node and sentinel to be reached over TLS")
            assert len(cache.health().nodes) == 3


def test_a_sentinel_of_another_name_is_not_believed(deployment: Deployment, authority: Authority) -> None:
    """Else whoever stands in its place could send the application anywhere."""
    wrong = authority.server("elsewhere.example")
    contexts = {one.port: wrong for one in deployment.sentinels}
    with behind_tls(deployment, contexts, authority.server("127.0.0.1")) as mapped:
        url = url_of(deployment, mapped, authority.ca_file)
        with Cache(url, address_map=mapped, budget=5, on_error="raise") as cache:
            wait_for(lambda: WRONG_NAME.search(answer(cache)), what="an error that names the certificate")


def test_a_node_of_another_name_is_not_written_to(deployment: Deployment, authority: Authority) -> None:
    contexts = {one.port: authority.server("elsewhere.example") for one in deployment.nodes}
    with behind_tls(deployment, contexts, authority.server("127.0.0.1")) as mapped:
        url = url_of(deployment, mapped, authority.ca_file)
        with Cache(url, address_map=mapped, budget=5, on_error="raise") as cache:
            wait_for(lambda: WRONG_NAME.search(answer(cache)), what="an error that names the certificate")

            def by_a_raw_client() -> str:
                with pytest.raises(Exception) as caught:
                    cache.master.set("k", "v")
                return str(caught.value)

            wait_for(lambda: WRONG_NAME.search(by_a_raw_client()), what="the same from a raw client")
    for node in deployment.nodes:
        assert node.cli("DBSIZE") == 0
