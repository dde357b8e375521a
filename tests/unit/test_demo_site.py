"""The site of the demo, without a cache; its server, and its load."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from tests.server import wait_for
from tests.unit.test_demo_data import make_archive

from evercache.errors import ConfigurationError, DemoFailed
from evercache.ops.demo.data import load_flights
from evercache.ops.demo.design2013 import SentinelAddress
from evercache.ops.demo.events import look
from evercache.ops.demo.journal import Call, Computation, Invalidation, read_journal
from evercache.ops.demo.judge import judge
from evercache.ops.demo.load import Load, LoadOptions
from evercache.ops.demo.options import DemoOptions
from evercache.ops.demo.pages import Database, Page, pages_of_tag
from evercache.ops.demo.server import SiteServer
from evercache.ops.demo.site import SiteOptions, create_app


@pytest.fixture
def options(tmp_path: Path) -> SiteOptions:
    folder = tmp_path / "a site"
    folder.mkdir()
    load_flights(make_archive(tmp_path), folder / "flights.db")
    return SiteOptions("none", str(folder / "flights.db"), str(folder / "journal"))


@pytest.fixture
def client(options: SiteOptions) -> Iterator[FlaskClient]:
    app = create_app(options)
    with app.test_client() as client:
        yield client
    app.extensions["evercache-demo"].close()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/", "Flights from New York City"),
        ("/leaderboard", "United Air Lines Inc."),
        ("/carrier/UA", "January"),
        ("/carrier/EV", "+0.0 min"),  # one cancelled flight: no delay is known
        ("/route/EWR-IAH", "Newark Liberty Intl to IAH"),
        ("/month/7", "July 2013"),
        ("/month/8", "August 2013"),
        ("/flight/1", "UA 1545, EWR to IAH, 1 January 2013"),
    ],
)
def test_pages(client: FlaskClient, path: str, shown: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert shown in response.text


@pytest.mark.parametrize(
    "path", ["/carrier/XX", "/month/13", "/month/x", "/route/EWR", "/route/XXX-IAH", "/flight/9"]
)
def test_unknown_pages(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_mean_is_over_the_flights_that_arrived(client: FlaskClient) -> None:
    value = client.get("/?format=json").get_json()
    assert [figure["value"] for figure in value["figures"]] == ["3", "+0.5 min", "0 %"]


def test_edit_changes_the_pages_and_is_written_down(client: FlaskClient, options: SiteOptions) -> None:
    assert client.get("/carrier/UA?format=json").get_json()["as_of"] == 0
    answer = client.post("/flight/1", data={"dep_delay": "100", "arr_delay": "110"}).get_json()
    assert answer == {
        "seq": 1,
        "tags": ["carrier:UA", "route:EWR-IAH", "month:1", "network"],
        "acknowledged": True,
    }
    value = client.get("/carrier/UA?format=json").get_json()
    assert value["as_of"] == 1
    assert value["rows"][0]["arr"] == 110
    records = read_journal(Path(options.journal))
    assert [r.tag for r in records if isinstance(r, Invalidation)] == answer["tags"]
    calls = [r for r in records if isinstance(r, Call)]
    made = [r.made for r in records if isinstance(r, Computation)]
    assert [c.made for c in calls] == made
    assert len(set(made)) == 2
    assert all(c.ran for c in calls)


def test_edit_of_nothing(client: FlaskClient) -> None:
    assert client.post("/flight/99", data={"dep_delay": "1", "arr_delay": "1"}).status_code == 404
    assert client.post("/flight/1", data={"dep_delay": "1"}).status_code == 400


def test_headers_say_what_it_took(client: FlaskClient) -> None:
    headers = client.get("/leaderboard").headers
    assert headers["X-Hit"] == "0"
    assert float(headers["X-Function-Seconds"]) > 0
    assert float(headers["X-Cache-Seconds"]) < 0.2


def test_names_tags_and_paths() -> None:
    page = Page("route", "EWR-IAH")
    assert (page.name, page.tag, page.path) == ("route:EWR-IAH", "route:EWR-IAH", "/route/EWR-IAH")
    assert Page.of_name(page.name) == page
    assert Page.of_name("front") == Page("front")
    assert pages_of_tag(page.tag) == (page,)
    assert all(other.tag == "network" for other in pages_of_tag("network"))


def test_an_edit_that_fails_leaves_no_transaction_open(options: SiteOptions) -> None:
    database = Database(Path(options.database))
    try:
        assert database.edit(99, 1, 1) is None
        edited = database.edit(1, 1, 1)
        assert edited is not None
        assert edited.seq == 1
        assert "2 of 2" in repr(database)
    finally:
        database.close()


def test_look_finds_nothing_without_a_cache() -> None:
    assert look("none", "", [Page("front")]) == {}


def test_server_and_load_end_to_end(options: SiteOptions, tmp_path: Path) -> None:
    with SiteServer(options, Path(options.database).parent) as server:
        assert server._process is not None
        group = server._process.pid
        # The database is small: only flight numbers above three are asked for in vain, as 404.
        load = Load(
            server.port,
            ["UA", "EV"],
            ["EWR-IAH"],
            LoadOptions(readers=3, reads=60, edits=4, timeout=5, ramp=0.1),
        )
        load.start()
        wait_for_reads(Path(options.journal), 25)
        samples = load.stop()
        port = server.port

    def gone() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, 0)
            return False
        return True

    wait_for(gone, 20, "the processes of the site to be gone")
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
    reads = [sample for sample in samples if not sample.edit]
    assert len(reads) >= 25
    assert {sample.status for sample in reads} == {200}
    assert {sample.status for sample in samples if sample.edit} <= {404}
    verdict = judge(reads, read_journal(Path(options.journal)))
    assert verdict.errors == 0
    assert verdict.calls == len(reads)
    assert verdict.hit_ratio == 0
    assert verdict.worst_staleness == 0


def wait_for_reads(journal: Path, number: int) -> None:
    import time

    deadline = time.monotonic() + 20
    while sum(isinstance(record, Call) for record in read_journal(journal)) < number:
        assert time.monotonic() < deadline, "the load does not read"
        time.sleep(0.05)


def test_a_site_that_cannot_start_says_why(tmp_path: Path) -> None:
    broken = SiteOptions("none", str(tmp_path / "no folder" / "flights.db"), str(tmp_path / "journal"))
    with pytest.raises(DemoFailed, match="the site did not start"):
        SiteServer(broken, tmp_path).__enter__()


def test_sentinel_url() -> None:
    address = SentinelAddress.of_url(
        "sentinel://app:p%40ss@127.0.0.1:26379,[::1]:26380,h/main/0?sentinel_password=x%26"
    )
    assert address.sentinels == (("127.0.0.1", 26379), ("::1", 26380), ("h", 26379))
    assert (address.username, address.password, address.service) == ("app", "p@ss", "main")
    assert (address.sentinel_username, address.sentinel_password) == (None, "x&")
    assert SentinelAddress.of_url("sentinel://:secret@h:1/m").username is None
    with pytest.raises(DemoFailed):
        SentinelAddress.of_url("redis://127.0.0.1:6379")


def test_options() -> None:
    assert DemoOptions().faulty == 36
    assert DemoOptions(quick=True).faulty == 24
    with pytest.raises(ConfigurationError, match="at least 20"):
        DemoOptions(seconds=5)
