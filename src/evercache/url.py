"""The URL of a cache: where the servers are and how to talk to them. A strict parser, without I/O.

Messages of errors name the part and the mend; they never repeat the part of a URL that may hold a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Final, Literal
from urllib.parse import quote, unquote_to_bytes

from msgspec import Struct, field

from evercache.errors import URLError
from evercache.net.types import ConnectionOptions, Credentials, TLSOptions
from evercache.protocol.types import Address

__all__ = ["Location", "parse_url"]

Kind = Literal["memory", "standalone", "replicated", "sentinel"]

_PORT: Final = 6379
_MAX_ENTRIES: Final = 10_000
_SENTINEL_PORT: Final = 26379

#: Scheme -> (group, TLS).
_SCHEMES: Final[dict[str, tuple[str, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "valkey": ("server", False),
    "valkeys": ("server", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "valkey+sentinel": ("sentinel", False),
    "valkeys+sentinel": ("sentinel", True),
    "sentinel": ("sentinel", False),
    "sentinels": ("sentinel", True),
    "memory": ("memory", False),
}
_COMMON: Final = ("client_name", "connect_timeout", "db", "max_connections")
_TLS: Final = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")
_OF_GROUP: Final[dict[str, tuple[str, ...]]] = {
    "server": (*_COMMON, *_TLS, "replicas"),
    "unix": _COMMON,
    "memory": ("max_entries",),
    "sentinel": (*_COMMON, *_TLS, "sentinel_username", "sentinel_password"),
}
_ALL: Final = sorted({name for names in _OF_GROUP.values() for name in names})

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,256}")
_DATABASES: Final = "a server has 16 of them, 0 to 15, unless its `databases` setting says otherwise"
_ENCODE: Final = "in a user name or password write @ as %40, / as %2F, ? as %3F, # as %23, : as %3A"


class Location(Struct, frozen=True):
    """What a URL says. `nodes` is the server or primary (empty for sentinels, which know it)."""

    kind: Kind
    nodes: tuple[Address, ...] = ()
    replicas: tuple[Address, ...] = ()
    sentinels: tuple[Address, ...] = ()
    service: str | None = None
    node_options: ConnectionOptions = field(default_factory=ConnectionOptions)
    sentinel_options: ConnectionOptions = field(default_factory=lambda: ConnectionOptions(sentinel=True))
    #: Of memory: how many values are kept; of more, the least recently used leave.
    max_entries: int = _MAX_ENTRIES

    def redacted(self) -> str:
        """The URL without passwords and settings, for logs."""
        if self.kind == "memory":
            return "memory://"
        secure = "s" if self.node_options.tls is not None else ""
        options = self.node_options
        login = quote(options.credentials.username or "", safe="")
        if options.credentials.password is not None:
            login += ":***"
        login += "@" if login else ""
        if self.nodes and self.nodes[0].path is not None:
            return f"unix://{login}{quote(self.nodes[0].path)}" + (f"?db={options.db}" if options.db else "")
        database = f"/{options.db}" if options.db else ""
        if self.kind == "sentinel":
            hosts = ",".join(map(str, self.sentinels))
            return f"redis{secure}+sentinel://{login}{hosts}/{self.service}{database}"
        replicas = "?replicas=" + ",".join(map(str, self.replicas)) if self.replicas else ""
        return f"redis{secure}://{login}{self.nodes[0]}{database}{replicas}"


def parse_url(url: str) -> Location:
    """Understand a URL, or raise `URLError`.

    `redis[s]://[user:pass@]host[:port][/db][?replicas=host:port,...]` (also `valkey[s]://`),
    `unix://[user:pass@]/path[?db=n]`, `redis[s]+sentinel://[user:pass@]host[:port],.../service[/db]` (short:
    `sentinel[s]://`) and `memory://[?max_entries=n]`. User names, passwords, paths and values are percent-decoded.
    """
    if not isinstance(url, str):
        raise URLError(f"the URL is a {type(url).__name__}: give a str such as 'redis://127.0.0.1:6379'")
    if re.search(r"[\x00-\x20\x7f-\xa0]", url):
        raise URLError("the URL has a space or a control character in it: write it percent-encoded")
    scheme, colon, rest = url.partition("://")
    if not colon:
        raise URLError("the URL has no scheme: it begins with redis://, sentinel://, unix:// or memory://")
    group, secure = _group_of(scheme.lower())
    if group == "memory":
        return _memory(rest)
    if "#" in rest:
        raise URLError(f"the URL has a # in it, which is not used here: {_ENCODE}")
    before_query, _, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    if "@" in path and group != "unix":
        raise URLError(f"the URL has an @ after the servers: {_ENCODE}")
    parameters = _parameters(query, group, secure, scheme.lower())
    login, _, hosts = authority.rpartition("@")
    credentials = _credentials(login)
    if group == "unix":
        if hosts:
            raise URLError("a unix:// URL names no host: write unix:///path/of/the/socket")
        nodes = (_unix_address(slash + path),)
        return Location("standalone", nodes, node_options=_options(parameters, credentials, None, 0))
    tls = _tls(parameters) if secure else None
    if group == "sentinel":
        return _sentinel(hosts, path, parameters, credentials, tls)
    return _server(hosts, path, parameters, credentials, tls)


def _memory(rest: str) -> Location:
    before, _, query = rest.partition("?")
    if before:
        raise URLError("memory:// takes only ?max_entries= after it: there is no server to name")
    parameters = _parameters(query, "memory", False, "memory")
    entries = _number(parameters.get("max_entries", str(_MAX_ENTRIES)), 9)
    if not entries:
        raise URLError("max_entries= is not a number from 1 to 999999999")
    return Location("memory", max_entries=entries)


def _server(
    hosts: str, path: str, parameters: Mapping[str, str], credentials: Credentials, tls: TLSOptions | None
) -> Location:
    nodes = _addresses(hosts, _PORT, "the URL")
    if len(nodes) > 1:
        raise URLError(
            f"the URL names {len(nodes)} servers: put replicas into ?replicas=host:port,... "
            "or use redis+sentinel:// if these are sentinels"
        )
    hint = "" if _SERVICE.fullmatch(path) is None else "; a service name needs redis+sentinel://"
    options = _options(parameters, credentials, tls, _database_of_path(path, hint))
    if "replicas" not in parameters:
        return Location("standalone", nodes, node_options=options)
    replicas = _addresses(parameters["replicas"], _PORT, "replicas=")
    if nodes[0] in replicas:
        raise URLError(f"replicas= names the primary {nodes[0]} as well: leave it out there")
    return Location("replicated", nodes, replicas, node_options=options)


def _sentinel(
    hosts: str, path: str, parameters: Mapping[str, str], credentials: Credentials, tls: TLSOptions | None
) -> Location:
    sentinels = _addresses(hosts, _SENTINEL_PORT, "the URL")
    name, _, database = path.partition("/")
    service = _decoded(name, "the service name")
    if not service:
        raise URLError("the URL names no service: write sentinel://host:port/service, as in `sentinel monitor`")
    if _SERVICE.fullmatch(service) is None:
        raise URLError("the service name may hold letters, digits, '.', '-' and '_' only")
    own = Credentials(parameters.get("sentinel_username"), parameters.get("sentinel_password"))
    node_options = _options(parameters, credentials, tls, _database_of_path(database, ""))
    sentinel_options = ConnectionOptions(
        credentials=own,
        tls=tls,
        connect_timeout=node_options.connect_timeout,
        max_connections=node_options.max_connections,
        client_name=node_options.client_name,
        sentinel=True,
    )
    return Location(
        "sentinel",
        sentinels=sentinels,
        service=service,
        node_options=node_options,
        sentinel_options=sentinel_options,
    )


def _group_of(scheme: str) -> tuple[str, bool]:
    if "cluster" in scheme:
        raise URLError("Cluster is not supported: use Sentinel, one server, or a primary with ?replicas=")
    try:
        return _SCHEMES[scheme]
    except KeyError:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise URLError(f"unknown scheme{_like(scheme, _SCHEMES)}; known are {known}") from None


def _like(name: str, known: Collection[str]) -> str:
    """` 'nmae' (did you mean 'name'?)`; an odd name is not repeated."""
    if re.fullmatch(r"[A-Za-z0-9_+.-]{1,40}", name) is None:
        return ""
    import difflib  # only for this message

    close = difflib.get_close_matches(name, known, 1)
    return f" {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")


def _parameters(query: str, group: str, secure: bool, scheme: str) -> dict[str, str]:
    found: dict[str, str] = {}
    told = "@" not in query  # else a part of a password may stand where the names are
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if "@" in name:
            raise URLError(f"the URL has an @ after the ?: {_ENCODE}")
        if name not in _ALL:
            raise URLError(f"unknown parameter{_like(name, _ALL) if told else ''}; known are {', '.join(_ALL)}")
        if name not in _OF_GROUP[group]:
            raise URLError(f"the parameter {name} has no meaning in a {scheme}:// URL: remove it")
        if name in _TLS and not secure:
            raise URLError(f"the parameter {name} needs TLS: use rediss://, valkeys:// or sentinels://")
        if not equals or not value:
            raise URLError(f"the parameter {name} has no value: write {name}=...")
        if name in found:
            raise URLError(f"the parameter {name} is given twice: keep one")
        found[name] = _decoded(value, f"the value of {name}")
    return found


def _decoded(text: str, what: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise URLError(f"{what} has a % that no two hex digits follow: write a plain % as %25")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeError:
        raise URLError(f"{what} is not UTF-8 when it is percent-decoded") from None
    if "\0" in decoded:
        raise URLError(f"{what} holds a null character: remove %00")
    return decoded


def _credentials(login: str) -> Credentials:
    name, _, password = login.partition(":")
    return Credentials(
        _decoded(name, "the user name") or None,
        _decoded(password, "the password") or None,
    )


def _unix_address(path: str) -> Address:
    decoded = _decoded(path, "the path of the socket")
    if len(decoded) < 2:
        raise URLError("the URL names no socket: write unix:///path/of/the/socket")
    if len(decoded.encode()) > 107:
        raise URLError("the path of the socket is longer than the 107 bytes that the system takes")
    return Address("", 0, path=decoded)


def _addresses(text: str, default_port: int, where: str) -> tuple[Address, ...]:
    if not text:
        raise URLError(f"{where} names no server: write host:port")
    found: list[Address] = []
    for number, part in enumerate(text.split(","), 1):
        address = _address(part, default_port, f"address {number} of {where}")
        if address in found:
            raise URLError(f"{where} names the same address twice (as number {number})")
        found.append(address)
    return tuple(found)


def _address(text: str, default_port: int, what: str) -> Address:
    """The text is not repeated in errors: where an @ was forgotten, it is a password."""
    if text.startswith("["):
        host, bracket, port_text = text[1:].partition("]")
        host = host.replace("%25", "%", 1)
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise URLError(f"{what}: no valid IPv6 address stands in the brackets") from None
        if not bracket or (port_text and not port_text.startswith(":")):
            raise URLError(f"{what}: write an IPv6 address as [::1]:6379")
        colon, port_text = port_text[:1], port_text[1:]
    else:
        if text.count(":") > 1:
            raise URLError(f"{what} has several colons: put an IPv6 address in brackets, and {_ENCODE}")
        host, colon, port_text = text.partition(":")
        if _HOST.fullmatch(host) is None:
            raise URLError(f"{what}: a host has letters, digits, '.', '-' and '_' only; write host:port")
        if re.fullmatch(r"[0-9.]+", host):
            try:
                ipaddress.IPv4Address(host)
            except ValueError:
                raise URLError(f"{what}: not a valid IPv4 address") from None
        if not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
            raise URLError(f"{what}: no host name, as a part between dots is empty or has over 63 letters")
    if not colon:
        return Address(host, default_port)
    port = _number(port_text, 5)
    if port is None or not 1 <= port <= 65535:
        raise URLError(f"{what}: the port is not a number from 1 to 65535")
    return Address(host, port)


def _number(text: str, digits: int) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits else None


def _database_of_path(path: str, hint: str) -> int | None:
    if not path:
        return None
    number = _number(path, 6)
    if number is None and path.isascii() and path.isdigit():
        raise URLError(f"the database number in the path is too large: {_DATABASES}")
    if number is None:
        raise URLError(f"the database in the path is not a number: write /0, /1, ...{hint}")
    return number


def _options(
    parameters: Mapping[str, str], credentials: Credentials, tls: TLSOptions | None, database: int | None
) -> ConnectionOptions:
    defaults = ConnectionOptions()
    db = database or 0
    if "db" in parameters:
        given = _number(parameters["db"], 6)
        if given is None and parameters["db"].isascii() and parameters["db"].isdigit():
            raise URLError(f"the database number in db= is too large: {_DATABASES}")
        if given is None:
            raise URLError("db= is not a number: write db=0, db=1, ...")
        if database not in (None, 0, given):
            raise URLError("the database stands in the path and in db=, and they differ: keep one")
        db = given
    connections = _number(parameters.get("max_connections", str(defaults.max_connections)), 6)
    if not connections:
        raise URLError("max_connections= is not a number from 1 to 999999")
    name = parameters.get("client_name", defaults.client_name)
    if re.fullmatch(r"[!-~]{1,200}", name) is None:
        raise URLError("client_name= may hold visible ASCII characters only, no spaces")
    return ConnectionOptions(
        credentials=credentials,
        db=db,
        tls=tls,
        connect_timeout=_seconds(parameters.get("connect_timeout"), defaults.connect_timeout),
        max_connections=connections,
        client_name=name,
    )


def _seconds(text: str | None, default: float) -> float:
    if text is None:
        return default
    if re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,9})?|\.[0-9]{1,9}", text) is None or not 0 < float(text) <= 600:
        raise URLError("connect_timeout= is not a number of seconds above 0 and up to 600, such as 0.2")
    return float(text)


def _tls(parameters: Mapping[str, str]) -> TLSOptions:
    verify = _choice(parameters, "ssl_cert_reqs", {"required": True, "none": False}, True)
    certfile, keyfile = parameters.get("ssl_certfile"), parameters.get("ssl_keyfile")
    if keyfile is not None and certfile is None:
        raise URLError("ssl_keyfile= without ssl_certfile=: give the certificate as well")
    return TLSOptions(
        ca_certs=parameters.get("ssl_ca_certs"),
        certfile=certfile,
        keyfile=keyfile,
        check_hostname=_choice(parameters, "ssl_check_hostname", {"true": True, "false": False}, verify),
        verify=verify,
    )


def _choice(parameters: Mapping[str, str], name: str, values: Mapping[str, bool], default: bool) -> bool:
    if name not in parameters:
        return default
    if parameters[name] not in values:
        raise URLError(f"{name}= is {' or '.join(values)}, nothing else")
    return values[parameters[name]]
