"""Packages that take a Redis client, on raw clients: RQ through failovers, Celery, Flask-Session, Flask-Limiter."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.servers import Deployment, Server, wait_for

from evercache import Cache
from evercache.raw import RawClients


@contextmanager
def workers(url: str, kind: str, count: int, which: str = "retry") -> Iterator[list[subprocess.Popen[bytes]]]:
    """RQ workers, each a process; ended at the end."""
    command = [sys.executable, "-m", "tests.real.raw_worker", url, kind, which]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield processes
        assert all(process.poll() is None for process in processes), "no worker gives up"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def calm() -> Deployment:
    """Fails over when told to only, however busy the machine is: an unplanned failover may lose what it likes."""
    return Deployment.start(down_after_ms=20_000)


def enqueue(queue: Any, path: Path, number: int) -> None:
    """As an application does that must not lose a job: where it may have worked, it looks before it tries again."""
    from rq.job import Job
    from tests.real.raw_worker import record

    for _ in range(20):
        try:
            queue.enqueue(record, str(path), number, job_id=f"job-{number}", result_ttl=600)
            return
        except redis.RedisError:
            for _ in range(20):
                try:
                    if Job.exists(f"job-{number}", queue.connection):
                        return
                    break
                except redis.RedisError:
                    time.sleep(0.1)
    raise AssertionError(f"job {number} could not be enqueued")


def done(path: Path) -> Counter[int]:
    """How often each job was run."""
    return Counter(int(line) for line in path.read_bytes().split()) if path.exists() else Counter()


def run_jobs(shop: Deployment, path: Path, jobs: int, kind: str, failovers: int) -> None:
    rq = pytest.importorskip("rq")
    clients = RawClients()
    queue = rq.Queue("high", connection=clients.master)
    with Cache(shop.url) as cache, workers(shop.url, kind, 2):
        clients.attach(cache)
        began = time.monotonic()
        for number in range(jobs):
            enqueue(queue, path, number)
            for failover in range(failovers):
                if number == jobs * (failover + 1) // (failovers + 1):
                    shop.wait_settled()
                    shop.failover("COORDINATED")
        wait_for(lambda: len(done(path)) == jobs, 90, "all jobs to be done")
        print(f"{jobs} jobs, {kind}, {failovers} failovers: {time.monotonic() - began:.1f} s")
        time.sleep(0.5)
        assert done(path) == Counter(range(jobs)), "each once"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["simple", "forking"])
def test_each_job_of_rq_is_run_once_through_a_planned_failover(kind: str, tmp_path: Path) -> None:
    with calm() as shop:
        run_jobs(shop, tmp_path / "done", 200, kind, failovers=1)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_thousand_jobs_through_two_failovers(tmp_path: Path) -> None:
    with calm() as shop:
        run_jobs(shop, tmp_path / "done", 2000, "simple", failovers=2)


@pytest.mark.parametrize(("which", "kind"), [("pybossa", "simple"), ("pybossa", "forking"), ("retry", "simple")])
def test_a_worker_of_rq_outlives_its_master(which: str, kind: str, tmp_path: Path) -> None:
    """With the sentinels' usual time: 5 s of silence before a promotion."""
    with Deployment.start(down_after_ms=5000, failover_timeout_ms=10_000) as shop:
        rq = pytest.importorskip("rq")
        path = tmp_path / "done"
        with Cache(shop.url) as cache, workers(shop.url, kind, 1, which):
            queue = rq.Queue("high", connection=cache.master)
            enqueue(queue, path, 1)
            wait_for(lambda: len(done(path)) == 1, 20, "the first job")
            old = shop.master()
            old.kill()
            enqueue(queue, path, 2)
            shop.wait_new_master(old)
            wait_for(lambda: done(path)[2] == 1, 30, "the second job, at the new master")


@contextmanager
def celery_worker(url: str) -> Iterator[None]:
    """A worker of Celery, a process of its own; told to end at the end."""
    process = subprocess.Popen([sys.executable, "-m", "tests.real.celery_site", url], stdout=subprocess.DEVNULL)
    try:
        yield
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@contextmanager
def quiet_celery() -> Iterator[Any]:
    """Its tests' site, with the warnings of its own packages left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("celery")
        pytest.importorskip("kombu.transport.redis")
        from tests.real.celery_site import site

        yield site


def test_celery_has_its_queue_and_its_results_there(valkey: Server, tmp_path: Path) -> None:
    path = tmp_path / "done"
    with quiet_celery() as site, Cache(valkey.url) as cache, celery_worker(valkey.url):
        app, double = site(cache)
        results = [double.delay(str(path), n) for n in range(50)]
        assert [result.get(timeout=30) for result in results] == [2 * n for n in range(50)]
        assert done(path) == Counter(range(50)), "each once"
        assert valkey.cli("EXISTS", f"celery-task-meta-{results[0].id}") == 1
        app.close()


@pytest.mark.long
@pytest.mark.parametrize("planned", [True, False], ids=["planned", "killed"])
def test_each_task_of_celery_is_done_through_a_failover(planned: bool, tmp_path: Path) -> None:
    path = tmp_path / "done"
    shop = calm() if planned else Deployment.start()
    with quiet_celery() as site, shop, Cache(shop.url) as cache, celery_worker(shop.url):
        app, double = site(cache)
        assert double.delay(str(path), 0).get(timeout=30) == 0
        old = shop.master()
        if planned:
            shop.failover("COORDINATED")
        else:
            old.kill()
            shop.wait_new_master(old, 30)
        results = []
        for n in range(1, 50):
            for _ in range(100):  # as an application does whose tasks may run twice
                try:
                    results.append(double.delay(str(path), n))
                    break
                except (redis.RedisError, app.connection().recoverable_connection_errors):
                    time.sleep(0.1)
        assert [result.get(timeout=30) for result in results] == [2 * n for n in range(1, 50)]
        assert set(done(path)) == set(range(50))
        app.close()


def test_flask_session_keeps_sessions_there(valkey: Server) -> None:
    flask = pytest.importorskip("flask")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flask_session = pytest.importorskip("flask_session")
        with Cache(valkey.url) as cache:
            app = flask.Flask("shop")
            app.config.update(SESSION_TYPE="redis", SESSION_REDIS=cache.master)
            flask_session.Session(app)

            @app.get("/")
            def count() -> str:
                flask.session["n"] = flask.session.get("n", 0) + 1
                return str(flask.session["n"])

            browser = app.test_client()
            assert [browser.get("/").text for _ in range(3)] == ["1", "2", "3"]
            assert len(valkey.cli("KEYS", "session:*")) == 1


def test_flask_limiter_counts_there(valkey: Server) -> None:
    flask = pytest.importorskip("flask")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limiter = pytest.importorskip("flask_limiter")
        with Cache(valkey.url) as cache:
            app = flask.Flask("shop")
            limits = limiter.Limiter(
                lambda: "somebody",
                app=app,
                storage_uri=valkey.url,
                storage_options={"connection_pool": cache.master.connection_pool},
            )

            @app.get("/")
            @limits.limit("2 per minute")
            def page() -> str:
                return "fine"

            browser = app.test_client()
            assert [browser.get("/").status_code for _ in range(3)] == [200, 200, 429]
            valkey.cli("SCRIPT", "FLUSH")
            assert browser.get("/").status_code == 429
            assert len(valkey.cli("KEYS", "LIMIT*")) == 1
