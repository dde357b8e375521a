"""What pages show of projects: each function runs SQL, and its result is kept. PyBossa has 49 of this kind."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from crowd.cache import FIVE_MINUTES, ONE_DAY, ONE_HOUR, cache, delete_cached, delete_memoized, memoize
from crowd.database import Project, Session, Task, TaskRun


@cache("front_page_top_projects", timeout=ONE_HOUR)
def get_top() -> list[dict[str, Any]]:
    """The projects with the most answers."""
    runs = func.count(TaskRun.id)
    rows = Session.execute(
        select(Project.short_name, Project.title, runs)
        .outerjoin(TaskRun, TaskRun.project_id == Project.id)
        .group_by(Project.id)
        .order_by(runs.desc(), Project.id)
        .limit(10)
    )
    return [{"short_name": name, "title": title, "n_task_runs": n} for name, title, n in rows]


@memoize(timeout=ONE_DAY)
def get_project(short_name: str) -> dict[str, Any] | None:
    """A project by its name in addresses; None where there is none, which is kept as well."""
    project = Session.scalar(select(Project).where(Project.short_name == short_name))
    if project is None:
        return None
    return {"id": project.id, "short_name": short_name, "title": project.title, "description": project.description}


@memoize(timeout=ONE_HOUR)
def n_tasks(project_id: int) -> int:
    """How many tasks a project has."""
    return Session.scalar(select(func.count(Task.id)).where(Task.project_id == project_id)) or 0


@memoize(timeout=ONE_HOUR)
def n_task_runs(project_id: int) -> int:
    """How many answers a project has."""
    return Session.scalar(select(func.count(TaskRun.id)).where(TaskRun.project_id == project_id)) or 0


@memoize(timeout=ONE_HOUR)
def n_completed_tasks(project_id: int) -> int:
    """How many tasks have all the answers they need."""
    done = select(func.count(Task.id)).where(Task.project_id == project_id, Task.completed)
    return Session.scalar(done) or 0


@memoize(timeout=ONE_HOUR)
def last_activity(project_id: int) -> datetime | None:
    """When the last answer came."""
    return Session.scalar(select(func.max(TaskRun.created)).where(TaskRun.project_id == project_id))


@memoize(timeout=FIVE_MINUTES)
def get_contributors(project_id: int, limit: int = 5) -> list[tuple[str, int]]:
    """Who gave the most answers to a project."""
    runs = func.count(TaskRun.id)
    rows = Session.execute(
        select(TaskRun.user, runs)
        .where(TaskRun.project_id == project_id)
        .group_by(TaskRun.user)
        .order_by(runs.desc(), TaskRun.user)
        .limit(limit)
    )
    return [(user, n) for user, n in rows]


# -- what makes it old: whoever changes the database calls these after its commit


def delete_project(short_name: str) -> None:
    """A project was edited."""
    delete_memoized(get_project, short_name)
    delete_cached("front_page_top_projects")


def delete_counts(project_id: int) -> None:
    """A project got an answer."""
    delete_memoized(n_task_runs, project_id)
    delete_memoized(last_activity, project_id)
    delete_memoized(get_contributors, project_id)
    delete_cached("front_page_top_projects")


def delete_progress(project_id: int) -> None:
    """Tasks of a project were completed."""
    delete_memoized(n_completed_tasks, project_id)
