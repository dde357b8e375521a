"""What pages show of users."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from crowd.cache import HALF_HOUR, ONE_HOUR, delete_memoized, memoize
from crowd.database import Project, Score, Session, TaskRun


@memoize(timeout=ONE_HOUR)
def get_leaderboard(limit: int = 20) -> list[dict[str, Any]]:
    """Who has the highest score; a job keeps the scores (`jobs.refresh_score`)."""
    rows = Session.scalars(select(Score).order_by(Score.score.desc(), Score.user).limit(limit))
    return [{"rank": rank, "user": row.user, "score": row.score} for rank, row in enumerate(rows, 1)]


@memoize(timeout=HALF_HOUR)
def get_user_summary(user: str) -> dict[str, Any]:
    """To which projects somebody contributed, and how much."""
    runs = func.count(TaskRun.id)
    rows = Session.execute(
        select(Project.title, runs)
        .join(TaskRun, TaskRun.project_id == Project.id)
        .where(TaskRun.user == user)
        .group_by(Project.id)
        .order_by(Project.id)
    )
    projects = [(title, n) for title, n in rows]
    return {"user": user, "projects": projects, "n_task_runs": sum(n for _, n in projects)}


def delete_user(user: str) -> None:
    """Somebody gave an answer."""
    delete_memoized(get_user_summary, user)


def delete_leaderboard() -> None:
    """Scores changed: every call of it, whatever its limit."""
    delete_memoized(get_leaderboard)
