"""One namespace, processes with different settings: what they must agree on is on the servers."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest
from tests.nursery import Program
from tests.servers import Deployment, Server, wait_for

from evercache import Cache

#: A process of the site with settings of its own. For each line (a method and arguments in JSON) it answers with
#: what that returned, and with what was logged so far.
SITE = """
import json, logging, sys
from evercache import Cache

lines = []
class Keep(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("evercache").addHandler(Keep())
cache = Cache(sys.argv[1], **json.loads(sys.argv[2]))
state = {"ran": 0, "truth": 0}
@cache.cached(name="page", ttl=float(sys.argv[3]), tags=("all",))
def page(number):
    state["ran"] += 1
    return state["truth"]
does = {
    "call": lambda truth, number: (state.update(truth=truth), page(number))[1],
    "ran": lambda: state["ran"],
    "invalidate": lambda number: page.invalidate(number).done,
    "invalidate_all": lambda: page.invalidate_all().done,
    "tag": lambda name: cache.invalidate_tag(name).done,
    "touch": lambda number, ttl: bool(cache.touch(page.key(number), ttl=ttl)),
    "problems": lambda: list(cache.health().problems),
    "resync": lambda: cache._find().engine.state.resyncs,
    "close": lambda: cache.close(),
}
for line in sys.stdin:
    what, *arguments = json.loads(line)
    print(json.dumps([does[what](*arguments), lines]), flush=True)
"""


class Process:
    """One of them."""

    def __init__(self, url: str, ttl: float = 600.0, **settings: Any) -> None:
        words = (url, json.dumps({"budget": 1.0, **settings}), str(ttl))
        self._program = Program(SITE, *words, stderr=subprocess.DEVNULL)
        self.log: list[str] = []

    def __call__(self, *what: Any) -> Any:
        self._program.stdin.write(json.dumps(what) + "\n")
        self._program.stdin.flush()
        answer, self.log = json.loads(self._program.stdout.readline())
        return answer

    def kill(self) -> None:
        """As by `kill -9`."""
        self._program.kill()
        self._program.communicate(timeout=20)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


#: Marks of this one are over after a second and a half.
SHORT = {"max_ttl": 1.0, "default_ttl": 1.0, "max_compute": 0.5}


def trim(short: Process, seconds: float = 2.0) -> None:
    """Let it remove the marks whose time is over by its own settings."""
    time.sleep(seconds)
    for _ in range(3):
        assert short("tag", "another")


@pytest.mark.parametrize("bookkeeping_db", [None, 1])
@pytest.mark.parametrize("first", ["long", "short"])
@pytest.mark.parametrize("what", ["invalidate_all", "tag"])
def test_marks_that_entries_of_others_need_stay(
    valkey: Server, what: str, first: str, bookkeeping_db: int | None
) -> None:
    """A process that starts later knows what was invalidated only from them."""
    more = {"bookkeeping_db": bookkeeping_db}
    with Process(valkey.url, **SHORT, **more, ttl=1.0) as short:
        if first == "short":
            assert short("call", 0, 7) == 0
            assert short("tag", "another")
        with Process(valkey.url, **more) as long:
            assert long("call", 1, 1) == 1
            assert long(what, *(["all"] if what == "tag" else []))
        trim(short)
        with Process(valkey.url, **more) as later:
            assert later("call", 2, 1) == 2, "it was invalidated"


@pytest.mark.parametrize("loss", ["FLUSHALL", "evicted"])
def test_the_longest_lifetime_is_told_anew(valkey: Server, loss: str) -> None:
    """By the first process that stores anything after the loss."""
    with Process(valkey.url, **SHORT, ttl=1.0) as short, Process(valkey.url) as long:
        assert long("call", 1, 1) == 1
        assert short("call", 1, 7) == 1
        if loss == "FLUSHALL":
            valkey.cli("FLUSHALL")
        else:
            valkey.cli("UNLINK", "evercache~state")
        assert short("tag", "another")
        assert long("call", 1, 2) == 1
        assert long("invalidate_all")
        long.kill()
        trim(short)
        with Process(valkey.url) as later:
            assert later("call", 2, 2) == 2


def test_a_counter_and_a_new_expiry_tell_their_lifetime(valkey: Server) -> None:
    with (
        Cache(valkey.url, max_ttl=10.0, default_ttl=10.0, max_compute=1.0) as one,
        Cache(valkey.url, max_ttl=20.0, default_ttl=10.0, max_compute=1.0) as two,
        Cache(valkey.url, max_ttl=30.0, default_ttl=10.0, max_compute=1.0) as three,
    ):
        assert one.set("k", "v")
        assert lifetime(valkey) == 11_000
        assert two.incr("n") == 1
        assert lifetime(valkey) == 21_000
        assert three.touch("k", ttl=30)
        assert lifetime(valkey) == 31_000
        assert one.set("k", "w")
        assert lifetime(valkey) == 31_000


def lifetime(server: Server) -> int:
    """What is stored (ms)."""
    return int(server.cli("HGET", "evercache~state", "lifetime"))


def test_the_longest_lifetime_survives_a_failover() -> None:
    with Deployment.start(replicas=2) as deployment, Process(deployment.url, **SHORT, ttl=1.0) as short:
        with Process(deployment.url) as long:
            assert long("call", 1, 1) == 1
            assert long("invalidate_all")
        time.sleep(0.5)
        deployment.failover()
        wait_for(lambda: short("tag", "another"), 8)
        trim(short)
        with Process(deployment.url) as later:
            assert later("call", 2, 1) == 2


# -- where the bookkeeping is


def agreed(process: Process, db: int) -> None:
    """It says once that it uses that database, what for, and what to do."""
    (problem,) = [one for one in process("problems") if "bookkeeping" in one]
    assert f"in database {db}, which is used instead" in problem
    assert f"set bookkeeping_db={db}" in problem
    assert len([line for line in process.log if "is used instead" in line]) == 1


@pytest.mark.parametrize(("first", "second"), [(None, 1), (1, None), (1, 2)])
def test_another_bookkeeping_db(valkey: Server, first: int | None, second: int | None) -> None:
    """Both obey the invalidations of the other, and the one that came later says what is wrong."""
    with (
        Process(valkey.url, bookkeeping_db=first) as one,
        Process(valkey.url, bookkeeping_db=second) as two,
    ):
        assert one("call", 1, 1) == 1
        assert two("call", 1, 1) == 1
        assert one("invalidate_all")
        wait_for(lambda: two("call", 2, 1) == 2, 1)
        assert two("tag", "all")
        wait_for(lambda: one("call", 3, 1) == 3, 1)
        assert one("problems") == []
        agreed(two, first or 0)
        with Process(valkey.url, bookkeeping_db=second) as later:
            assert later("call", 4, 1) == 3


def test_another_bookkeeping_db_before_anything_is_stored(valkey: Server) -> None:
    """Both have begun before either of them writes."""
    with Process(valkey.url) as one, Process(valkey.url, bookkeeping_db=3) as two:
        for process in (one, two):
            process("call", 0, 9)
        for truth in range(1, 5):
            changing, other = (one, two) if truth % 2 else (two, one)
            assert changing("invalidate_all")
            assert changing("call", truth, 1) == truth
            wait_for(lambda other=other, truth=truth: other("call", truth, 1) == truth, 1)


@pytest.mark.parametrize("flush", ["FLUSHALL", "0", "1", "2"])
def test_after_a_flush_the_first_process_says_where_it_is(valkey: Server, flush: str) -> None:
    """All agree again, on whichever database it is."""
    with (
        Process(valkey.url, bookkeeping_db=1) as one,
        Process(valkey.url, bookkeeping_db=2) as two,
    ):
        assert one("call", 0, 1) == two("call", 0, 1) == 0
        for truth in range(1, 9):
            valkey.cli_many([("FLUSHALL",)] if flush == "FLUSHALL" else [("SELECT", flush), ("FLUSHDB",)])
            changing, other = (one, two) if truth % 2 else (two, one)
            with Process(valkey.url, bookkeeping_db=3 if truth % 3 else None) as third:
                assert changing("invalidate_all")
                wait_for(lambda p=other, t=truth: p("call", t, 1) == t, 1.5)
                wait_for(lambda p=third, t=truth: p("call", t, 1) == t, 1.5)
                assert third("tag", "all")
                assert third("call", 100 + truth, 1) == 100 + truth
            wait_for(lambda p=changing, t=truth: p("call", 100 + t, 1) == 100 + t, 1.5)


def test_bookkeeping_of_an_earlier_version(valkey: Server) -> None:
    """It does not tell where it is: what lies in the database of the entries does."""
    with Process(valkey.url) as earlier:
        assert earlier("call", 1, 1) == 1
        assert earlier("invalidate_all")
    valkey.cli("HDEL", "evercache~state", "data", "lifetime")
    with Process(valkey.url, bookkeeping_db=1) as now:
        assert now("call", 2, 1) == 2
        agreed(now, 0)


def test_the_bookkeeping_is_elsewhere_after_a_failover() -> None:
    with (
        Deployment.start(replicas=2) as deployment,
        Process(deployment.url, bookkeeping_db=1) as one,
        Process(deployment.url, bookkeeping_db=2) as two,
    ):
        assert one("call", 1, 1) == two("call", 1, 1) == 1
        time.sleep(0.5)
        deployment.failover()
        wait_for(lambda: two("invalidate_all"), 8)
        wait_for(lambda: one("call", 2, 1) == 2, 3)
        agreed(two, 1)


def test_data_in_two_databases(valkey: Server) -> None:
    """Each has entries of its own; they may share the database of the bookkeeping."""
    other_url = f"{valkey.url}/5"
    for bookkeeping_db in (None, 7):
        with (
            Process(valkey.url, bookkeeping_db=bookkeeping_db) as one,
            Process(other_url, bookkeeping_db=bookkeeping_db) as two,
        ):
            assert (one("call", 1, 1), two("call", 2, 1)) == (1, 2)
            assert one("invalidate", 1)
            assert (one("call", 3, 1), two("call", 2, 1)) == (3, 2)
            assert one("problems") == two("problems") == []
        valkey.cli("FLUSHALL")


def test_a_user_who_may_not_select_needs_no_other_database() -> None:
    with Server.start("valkey") as server:
        server.cli_many([("SELECT", 3), ("SET", "of another application", 1)])
        server.cli("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-select")
        with Cache(f"redis://app:pw@127.0.0.1:{server.port}") as cache:
            page: Any = cache.cached(ttl=600)(lambda: 1)
            assert page() == page() == 1
            assert page.invalidate()
            assert cache.health().problems == ()
            assert cache.stats().counters.computed == 1
