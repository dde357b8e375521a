"""Where everything of one host is, for each way to run it."""

from __future__ import annotations

from dataclasses import dataclass

from evercache.ops.deploy.description import Description, Host, is_address

__all__ = ["Layout", "TLSFiles", "layout_of"]

#: Inside of containers.
_CONFIG, _DATA = "/etc/evercache", "/data"


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """The paths of an authority, of a certificate and of its key, and whether clients must show a certificate."""

    ca: str
    certificate: str
    key: str
    clients: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths as the servers see them."""

    config: str
    data: str
    program: str
    bind: tuple[str, ...]
    tls: TLSFiles | None
    #: The name of the nodes' configuration file.
    node_file: str

    def rendered(self, file: str) -> str:
        """A file that was rendered: read by servers, never written."""
        return f"{self.config}/{file}"

    @property
    def node(self) -> str:
        """The folder of the data node."""
        return f"{self.data}/node"

    @property
    def sentinel(self) -> str:
        """The folder of the sentinel."""
        return f"{self.data}/sentinel"

    @property
    def node_live(self) -> str:
        """The copy that the data node runs on, and rewrites."""
        return f"{self.node}/{self.node_file}"

    @property
    def sentinel_live(self) -> str:
        """The copy that the sentinel runs on, and rewrites."""
        return f"{self.sentinel}/sentinel.conf"


def layout_of(description: Description, host: Host, variant: str) -> Layout:
    """The paths of one host for a variant."""
    contained = variant in {"compose", "kubernetes"}
    config = _CONFIG if contained else str(description.folder("config", host))
    data = _DATA if contained else str(description.folder("data", host))
    server = description.server
    bind = host.bind or ((host.address,) if is_address(host.address) else ("*",))
    if variant == "kubernetes":
        bind = ("*",)  # a pod does not have the address of its service
    tls = None
    if description.tls.enabled:
        given = description.tls
        paths = (given.ca, given.certificate, given.key) if not contained else ("", "", "")
        ca, certificate, key = (
            path.replace("{host}", host.name) or f"{config}/tls/{name}"
            for path, name in zip(paths, ("ca.crt", "tls.crt", "tls.key"), strict=True)
        )
        tls = TLSFiles(ca, certificate, key, given.client_certificates)
    return Layout(
        config=config,
        data=data,
        program=f"{server.kind}-server" if contained else server.program,
        bind=("*", "-::*") if bind == ("*",) else bind,
        tls=tls,
        node_file=f"{server.kind}.conf",
    )
