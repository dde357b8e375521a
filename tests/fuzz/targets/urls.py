"""The URL of a cache; a password in it is never repeated."""

from __future__ import annotations

from evercache import url as urls
from evercache.errors import URLError
from tests.edits import edit
from tests.fuzz.target import Bug, Target, must

__all__ = ["TARGETS"]

#: A piece of a password; it stands before an @ where it is one.
_SECRET = "s3cr3t"


def _url(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    scheme, _, rest = text.partition("://")
    held = _SECRET in rest and "@" in rest.rpartition(_SECRET)[2]
    try:
        place = urls.parse_url(text)
    except URLError as error:
        must(not held or _SECRET in scheme or _SECRET not in str(error), f"a password in an error: {error}")
        return
    options = (place.node_options, place.sentinel_options)
    for one in (*place.nodes, *place.replicas, *place.sentinels):
        must(one.path is not None or (one.host and 0 < one.port < 65536), "an address that nobody has")
    must(len({*place.sentinels}) == len(place.sentinels), "a sentinel twice")
    must((place.kind == "sentinel") == bool(place.sentinels and place.service), "a kind that does not fit")
    must(all(0 < one.connect_timeout <= 600 and one.max_connections > 0 for one in options), "options out of range")
    shown = (place.redacted(), repr(place), str(place))
    if any(_SECRET in (one.credentials.password or "") for one in options):
        names = (one.credentials.username or "" for one in options)
        elsewhere = (str(place.nodes), str(place.replicas), str(place.service), str(options[0].client_name), *names)
        elsewhere = (*elsewhere, str(place.node_options.tls))
        must(
            any(_SECRET in one for one in elsewhere) or all(_SECRET not in one for one in shown),
            "a password is shown",
        )
    again = urls.parse_url(place.redacted())
    must((again.kind, again.nodes, again.replicas) == (place.kind, place.nodes, place.replicas), "another place")
    must((again.sentinels, again.service) == (place.sentinels, place.service), "other sentinels")
    must(again.node_options.db == place.node_options.db, "another database")
    must(again.node_options.credentials.username == place.node_options.credentials.username, "another user")


TARGETS = (
    Target(
        "url",
        _url,
        (
            b"redis://user:s3cr3t@host:6379/2?replicas=h2:6379,h3&client_name=web",
            b"rediss+sentinel://:s3cr3t@a:26379,[::1]:26380/mymaster/1?sentinel_password=s3cr3t&ssl_check_hostname=false",
            b"unix://u:s3cr3t@/run/valkey.sock?db=3&max_connections=5",
            b"valkeys://host?ssl_ca_certs=/ca.pem&connect_timeout=0.5",
            b"memory://?max_entries=100",
            b"redis://:s3cr3t%2F@h",
            b"redis://user:s3cr%40t@127.0.0.1",
        ),
        (
            b"@",
            b":",
            b"/",
            b"?",
            b"#",
            b"&",
            b"=",
            b"%",
            b"%40",
            b",",
            b"[",
            b"]",
            b"://",
            b"s3cr3t",
            b"db=1",
            b"%00",
            b"0",
            b"9",
            "²".encode(),
            b"\xff",
            b" ",
            b"redis+sentinel",
            b"replicas=",
            b"sentinel_username=",
        ),
        found=(b"redis://u:p?s3cr3t&db=1@h",),
        bugs=(
            Bug(
                "what may be a password is repeated",
                edit(urls, "_parameters", ("if told else", "if True else")),
            ),
            Bug(
                "any port",
                edit(urls, "_address", ("if port is None or not 1 <= port <= 65535:", "if port is None:")),
            ),
            Bug("any digits", edit(urls, "_number", ("text.isascii() and", ""))),
        ),
    ),
)
