"""A tour of the example site, as a process of its own: all its addresses, once for each line of standard input.

Each time one line of JSON: for each address the status, the seconds, and what was answered.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update

from crowd import create_app, events
from crowd.database import Job, Session
from crowd.samples import fill

LIMIT = 20


def visit(client: FlaskClient, address: str, **told: Any) -> tuple[int, float, Any]:
    method, path = address.split(" ")
    began = time.monotonic()
    response = client.open(path, method=method, **told)
    return response.status_code, time.monotonic() - began, response.json if response.is_json else response.text


def streamed(client: FlaskClient) -> tuple[int, float, Any]:
    """The first thing that is heard: an answer that is published meanwhile, or that there are no servers."""
    began = time.monotonic()
    response = client.get("/project/birds/stream")
    parts, heard = response.iter_encoded(), threading.Event()
    text = [next(parts).decode()]

    def listen() -> None:
        text.append(next(part for part in parts if part != b": nothing new\n\n").decode())
        heard.set()

    listening = threading.Thread(target=listen)
    listening.start()
    for _ in range(100):
        events.publish("birds", user="bob", answer="no")
        if heard.wait(0.05):
            break
    listening.join(20)
    response.close()
    return response.status_code, time.monotonic() - began, "".join(text)


def eager(client: FlaskClient) -> tuple[int, float, Any]:
    """How often somebody may call who calls too often."""
    began = time.monotonic()
    seen = [visit(client, "GET /api/project/birds/newtask?user=eager")[0] for _ in range(LIMIT + 5)]
    return seen[-1], time.monotonic() - began, seen.count(200)


def lose_the_queue_and_work() -> None:
    """What a master took and no replica had: it is put into the queue again, and done."""
    from crowd import jobs  # with the module of 2013 after `create_app` only
    from crowd.commands import Worker

    jobs.queue.empty()
    Session.execute(update(Job).values(handed=None))
    Session.commit()
    assert jobs.hand_over_again() == 2
    Worker([jobs.queue], connection=jobs.queue.connection).work(burst=True, logging_level="ERROR")


def tour(app: Flask, work: bool) -> dict[str, tuple[int, float, Any]]:
    client = app.test_client()
    stops: dict[str, Callable[[], tuple[int, float, Any]]] = {}
    for address in (
        "GET /",
        "GET /project/birds",
        "GET /project/nothing",
        "GET /leaderboard",
        "GET /user/ann",
        "GET /api/project/birds/newtask?user=ann",
        "POST /api/taskrun?user=ann",
        "PUT /api/project/birds?user=ann",
    ):
        told: dict[str, Any] = {"json": {"task_id": 201, "answer": "yes"}} if address[:4] == "POST" else {}
        told |= {"json": {"title": "Voices of birds"}} if address[:3] == "PUT" else {}
        stops[address] = lambda address=address, told=told: visit(client, address, **told)
    seen = {address: stop() for address, stop in stops.items()}
    if work:
        lose_the_queue_and_work()
    for address in ("GET /", "GET /project/birds", "GET /leaderboard", "GET /user/ann", "GET /activity"):
        seen[f"{address} again"] = visit(client, address)
    seen["GET /project/birds/stream"] = streamed(client)
    seen["eager"] = eager(client)
    visited = {app.url_map.bind("").match(*_parts(address))[0] for address in seen if " " in address}
    assert visited == {rule.endpoint for rule in app.url_map.iter_rules()} - {"static"}, "each of its addresses"
    return seen


def _parts(address: str) -> tuple[str, str]:
    method, path, *_ = address.split(" ")
    return path.partition("?")[0], method


def main() -> None:
    app = create_app({"RATE_LIMIT": LIMIT})
    app.logger.setLevel(logging.CRITICAL)
    with app.app_context():
        fill(100)
    for line in sys.stdin:
        print(json.dumps(tour(app, work=line.strip() == "work")), flush=True)


if __name__ == "__main__":
    main()
