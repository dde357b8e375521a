from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evercache.errors import URLError
from evercache.net.types import ConnectionOptions, Credentials, TLSOptions
from evercache.protocol.types import Address
from evercache.url import Location, parse_url

H = Address("h")


def test_memory() -> None:
    assert parse_url("memory://") == Location("memory", max_entries=10_000)
    assert parse_url("memory://?max_entries=3") == Location("memory", max_entries=3)


@pytest.mark.parametrize("scheme", ["redis", "valkey", "REDIS", "rediss", "valkeys"])
def test_standalone(scheme: str) -> None:
    location = parse_url(f"{scheme}://user:p%40ss%3A%2F@h:7000/3")
    assert location.kind == "standalone"
    assert location.nodes == (Address("h", 7000),)
    assert location.replicas == location.sentinels == ()
    assert location.node_options.db == 3
    assert location.node_options.credentials == Credentials("user", "p@ss:/")
    assert location.node_options.tls == (TLSOptions() if scheme.endswith("s") and scheme != "redis" else None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Credentials()),
        ("redis://@h", Credentials()),
        ("redis://:@h", Credentials()),
        ("redis://:pw@h", Credentials(None, "pw")),
        ("redis://user@h", Credentials("user", None)),
        ("redis://u:a:b@h", Credentials("u", "a:b")),
        ("redis://u:a@b@h", Credentials("u", "a@b")),
        ("redis://u:a+b%20c@h", Credentials("u", "a+b c")),
        ("redis://%C3%A4:%E2%82%AC@h", Credentials("ä", "€")),
    ],
)
def test_credentials(url: str, expected: Credentials) -> None:
    assert parse_url(url).node_options.credentials == expected
    assert parse_url(url).nodes == (H,)


def test_replicated() -> None:
    location = parse_url("redis://h:1/2?replicas=a:2,[::1]:3,b")
    assert location.kind == "replicated"
    assert location.nodes == (Address("h", 1),)
    assert location.replicas == (Address("a", 2), Address("::1", 3), Address("b", 6379))
    assert location.redacted() == "redis://h:1/2?replicas=a:2,[::1]:3,b:6379"


@pytest.mark.parametrize("scheme", ["redis+sentinel", "valkey+sentinel", "sentinel", "sentinels"])
def test_sentinel(scheme: str) -> None:
    location = parse_url(
        f"{scheme}://app:secret@a,b:1,[fe80::1%25eth0]:2/my.master-1/4"
        "?sentinel_username=watch&sentinel_password=a%26b@c&connect_timeout=.5&max_connections=7&client_name=shop"
    )
    assert location.kind == "sentinel"
    assert location.nodes == ()
    assert location.sentinels == (Address("a", 26379), Address("b", 1), Address("fe80::1%eth0", 2))
    assert location.service == "my.master-1"
    tls = TLSOptions() if scheme == "sentinels" else None
    assert location.node_options == ConnectionOptions(Credentials("app", "secret"), 4, tls, 0.5, 7, "shop")
    assert location.sentinel_options == ConnectionOptions(
        Credentials("watch", "a&b@c"), 0, tls, 0.5, 7, "shop", sentinel=True
    )


def test_unix() -> None:
    location = parse_url("unix://u:p@/run/a%20b/r@s.sock?db=2")
    assert location.nodes == (Address("", 0, path="/run/a b/r@s.sock"),)
    assert location.node_options.db == 2
    assert location.node_options.credentials == Credentials("u", "p")
    assert location.redacted() == "unix://u:***@/run/a%20b/r%40s.sock?db=2"


def test_tls_settings() -> None:
    location = parse_url(
        "rediss://h?ssl_ca_certs=/etc/c%20a.pem&ssl_certfile=c.pem&ssl_keyfile=k.pem&ssl_check_hostname=false"
    )
    assert location.node_options.tls == TLSOptions("/etc/c a.pem", "c.pem", "k.pem", False, True)
    unverified = parse_url("rediss://h?ssl_cert_reqs=none").node_options.tls
    assert unverified == TLSOptions(check_hostname=False, verify=False)
    both = parse_url("rediss+sentinel://h/s?ssl_ca_certs=ca.pem")
    assert both.node_options.tls == both.sentinel_options.tls == TLSOptions("ca.pem")


def test_database_by_parameter() -> None:
    assert parse_url("redis://h?db=5").node_options.db == 5
    assert parse_url("redis://h/5?db=5").node_options.db == 5
    assert parse_url("redis://h/").node_options.db == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no scheme"),
        ("localhost:6379", "no scheme"),
        ("redi://h", "did you mean 'redis'"),
        ("http://h", "known are redis://"),
        ("redis-cluster://h", "Cluster is not supported"),
        ("rediss+cluster://h", "Cluster is not supported"),
        ("memory://x", "takes only"),
        ("memory://?max_entries=0", "max_entries= is not a number"),
        ("redis://", "names no server"),
        ("redis:///0", "names no server"),
        ("redis://h/x", r"not a number.*redis\+sentinel"),
        ("redis://h/-1", "not a number"),
        ("redis://h/1/2", "not a number"),
        ("redis://h/²", "not a number"),
        ("redis://h/1234567", "too large: a server has 16 of them, 0 to 15"),
        ("redis://h?db=1234567", "too large: a server has 16 of them, 0 to 15"),
        ("sentinel://h/s/99999999", "too large: a server has 16 of them, 0 to 15"),
        ("redis://h?db=x", "db= is not a number"),
        ("redis://h/1?db=2", "they differ"),
        ("redis://h:0", "1 to 65535"),
        ("redis://h:65536", "1 to 65535"),
        ("redis://h:", "1 to 65535"),
        ("redis://h:6x", "1 to 65535"),
        ("redis://h:-1", "1 to 65535"),
        ("redis://::1", "in brackets"),
        ("redis://[::1", "as \\[::1\\]:6379"),
        ("redis://[::1]6", "as \\[::1\\]:6379"),
        ("redis://[nonsense]", "IPv6"),
        ("redis://1.2.3", "IPv4"),
        ("redis://1.2.3.400:1", "IPv4"),
        ("redis://hö", "letters, digits"),
        ("redis://a..b", "no host name"),
        ("redis://" + "x" * 64, "no host name"),
        ("sentinel://a,.b/s", "address 2 of .*no host name"),
        ("redis://a,b", r"2 servers.*\?replicas=.*redis\+sentinel"),
        ("redis://h?replicas=", "no value"),
        ("redis://h?replicas=a,,b", "address 2 of replicas="),
        ("redis://h?replicas=a,a", "twice"),
        ("redis://h?replicas=h", "the primary"),
        ("redis://h?client=x", "did you mean 'client_name'"),
        (
            "redis://h?conect_timeout=1",
            "did you mean 'connect_timeout'.*known are client_name, connect_timeout",
        ),
        ("redis://h?sentinel_password=x", "no meaning in a redis://"),
        ("unix:///s?replicas=h", "no meaning in a unix://"),
        ("sentinel://h/s?replicas=h", "no meaning in a sentinel://"),
        ("redis://h?ssl_ca_certs=x", "needs TLS"),
        ("redis://h?db", "no value"),
        ("redis://h?db=1&db=1", "twice"),
        ("redis://h?&", "unknown parameter"),
        ("redis://h?connect_timeout=0", "connect_timeout"),
        ("redis://h?connect_timeout=nan", "connect_timeout"),
        ("redis://h?connect_timeout=1e3", "connect_timeout"),
        ("redis://h?connect_timeout=601", "connect_timeout"),
        ("redis://h?max_connections=0", "max_connections"),
        ("redis://h?client_name=a%20b", "client_name"),
        ("rediss://h?ssl_check_hostname=yes", "true or false"),
        ("rediss://h?ssl_cert_reqs=optional", "required or none"),
        ("rediss://h?ssl_keyfile=k", "ssl_certfile"),
        ("sentinel://h", "no service"),
        ("sentinel://h/", "no service"),
        ("sentinel://h/a%20b", "letters, digits"),
        ("sentinel://a,a:26379/s", "twice"),
        ("unix://h/path", "no host"),
        ("unix://", "no socket"),
        ("unix:///", "no socket"),
        ("unix:///%00", "null"),
        ("unix:///" + "x" * 107, "107 bytes"),
        ("redis://h/0#x", "%23"),
        ("redis://u:%zz@h", "%25"),
        ("redis://u:%ff@h", "UTF-8"),
        ("redis://a b", "space"),
        ("redis://h\n", "space"),
    ],
)
def test_mistakes(url: str, message: str) -> None:
    with pytest.raises(URLError, match=message):
        parse_url(url)


def test_not_a_string() -> None:
    with pytest.raises(URLError, match="NoneType"):
        parse_url(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hush@h/x",
        "redis://u:hush@h:x",
        "redis://u:hush",
        "redis://:hush",
        "redis://hush@h:0",
        "redis://u:hush%zz@h",
        "redis://u:hush/1@h",
        "redis://u:1/hush@h",
        "redis://u:hush?x@h",
        "redis://u:1?hush@h",
        "redis://u:1?x=hush@h",
        "redis://u:hush#x@h",
        "redis://u:1#hush@h",
        "redis://u:hu:hush:1",
        "redis://u:h hush@h",
        "hush://u:hush hush@h",
        "sentinel://u:hush@h",
        "sentinel://h/s?sentinel_password=hush&sentinel_password=hush",
        "sentinel://h/s?sentinel_password=hush%zz",
        "redis://[hush]",
        "redis://hush,hush",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(URLError) as caught:
        parse_url(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hush" not in repr(error)
        error = error.__cause__


def test_nothing_shown_of_a_location_is_secret() -> None:
    location = parse_url("sentinel://user:hush@a:1/s/2?sentinel_password=hush")
    assert location.redacted() == "redis+sentinel://user:***@a:1/s/2"
    assert "hush" not in repr(location)
    assert parse_url("rediss://:hush@h").redacted() == "rediss://:***@h:6379"


URL_TEXT = st.text(alphabet=st.sampled_from("redis:/[@]?&=%,.#1a-+ é\x00"), max_size=40) | st.text(max_size=40)


@given(st.sampled_from(["", "redis://", "rediss://", "sentinel://", "unix://", "memory://"]), URL_TEXT)
@example("redis://", "[::%")
@example("redis://", "h?connect_timeout=9999.999999999")
def test_any_text_is_understood_or_refused(scheme: str, text: str) -> None:
    try:
        location = parse_url(scheme + text)
    except URLError:
        return
    assert parse_url(location.redacted().replace(":***@", ":x@")).nodes == location.nodes


HOSTS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,3})?", fullmatch=True) | st.ip_addresses().map(str)
ADDRESSES = st.lists(st.builds(Address, HOSTS, st.integers(1, 65535)), min_size=1, max_size=4, unique=True)
SECRETS = st.none() | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)


@given(ADDRESSES, SECRETS, SECRETS, SECRETS, st.integers(0, 999), st.booleans())
def test_a_url_that_was_written_is_read_back(
    addresses: list[Address],
    user: str | None,
    password: str | None,
    other: str | None,
    db: int,
    sentinel: bool,
) -> None:
    login = "" if user is None else quote(user, safe="")
    login += "" if password is None else ":" + quote(password, safe="")
    hosts = ",".join(map(str, addresses[: None if sentinel else 1]))
    if sentinel:
        url = f"sentinel://{login}@{hosts}/svc/{db}"
        url += "" if other is None else f"?sentinel_password={quote(other, safe='')}"
    else:
        url = f"redis://{login}@{hosts}/{db}"
        if addresses[1:]:
            url += "?replicas=" + quote(",".join(map(str, addresses[1:])), safe="")
    location = parse_url(url)
    assert location.node_options.credentials == Credentials(user, password)
    assert location.node_options.db == db
    if sentinel:
        assert location.sentinels == tuple(addresses)
        assert location.sentinel_options.credentials.password == other
    else:
        assert (*location.nodes, *location.replicas) == tuple(addresses)
