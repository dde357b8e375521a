"""The pages."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, abort, render_template, stream_with_context

from crowd import events, feed
from crowd.cache import projects, users

__all__ = ["pages"]

pages = Blueprint("pages", __name__)


def _project(short_name: str) -> dict[str, Any]:
    project = projects.get_project(short_name)
    if project is None:
        abort(404)
    return project


@pages.get("/")
def front() -> str:
    """The projects with the most answers."""
    return render_template("front.html", projects=projects.get_top())


@pages.get("/project/<short_name>")
def project(short_name: str) -> str:
    """One project, and how far it is."""
    found = _project(short_name)
    number = found["id"]
    return render_template(
        "project.html",
        project=found,
        n_tasks=projects.n_tasks(number),
        n_completed=projects.n_completed_tasks(number),
        n_task_runs=projects.n_task_runs(number),
        last_activity=projects.last_activity(number),
        contributors=projects.get_contributors(number),
    )


@pages.get("/project/<short_name>/stream")
def stream(short_name: str) -> Response:
    """Its answers as they come."""
    _project(short_name)
    return Response(stream_with_context(events.stream(short_name)), mimetype="text/event-stream")


@pages.get("/leaderboard")
def leaderboard() -> str:
    """Who gave the most answers."""
    return render_template("leaderboard.html", rows=users.get_leaderboard(10))


@pages.get("/user/<user>")
def user(user: str) -> str:
    """What somebody contributed."""
    return render_template("user.html", summary=users.get_user_summary(user))


@pages.get("/activity")
def activity() -> str:
    """What happened last."""
    return render_template("activity.html", entries=feed.latest())
