"""What the pages' scripts, and programs, call: a task to do, an answer, an edit."""

from __future__ import annotations

from datetime import datetime

from flask import Blueprint, abort, jsonify, request
from flask.typing import ResponseReturnValue
from sqlalchemy import func, select, update

from crowd import events, feed, jobs
from crowd.cache import projects, users
from crowd.database import Project, Session, Task, TaskRun
from crowd.ratelimit import ratelimit

__all__ = ["api"]

api = Blueprint("api", __name__, url_prefix="/api")


@api.get("/project/<short_name>/newtask")
@ratelimit
def newtask(short_name: str) -> ResponseReturnValue:
    """A task that still needs answers; one that somebody has not answered yet, if there is any."""
    found = projects.get_project(short_name)
    if found is None:
        abort(404)
    own = select(TaskRun.task_id).where(TaskRun.user == request.args.get("user", "anonymous"))
    tasks = (
        select(Task).where(Task.project_id == found["id"]).order_by(Task.completed, Task.id.in_(own), func.random())
    )
    task = Session.scalar(tasks.limit(1))
    return jsonify(None if task is None else {"id": task.id, "question": task.question})


@api.post("/taskrun")
@ratelimit
def taskrun() -> ResponseReturnValue:
    """An answer: `{"task_id": 1, "answer": "yes"}`."""
    told = request.get_json()
    user, answer = request.args.get("user", "anonymous"), str(told["answer"])
    found = Session.execute(
        select(Task, Project.short_name)
        .join(Project, Project.id == Task.project_id)
        .where(Task.id == told["task_id"])
    ).one_or_none()
    if found is None:
        abort(404)
    task, short_name = found
    run = TaskRun(project_id=task.project_id, task_id=task.id, user=user, answer=answer, created=datetime.now())
    project_id = task.project_id
    Session.add(run)
    later = [jobs.order("refresh_score", user), jobs.order("refresh_progress", project_id)]
    Session.commit()
    # From here on the answer is kept, whatever the servers do.
    projects.delete_counts(project_id)
    users.delete_user(user)
    jobs.hand_over(*(job.id for job in later))
    feed.add("answer", user=user, project=short_name)
    events.publish(short_name, user=user, answer=answer)
    return jsonify(id=run.id)


@api.put("/project/<short_name>")
@ratelimit
def edit(short_name: str) -> ResponseReturnValue:
    """An edit: `{"title": "..."}`. When this is answered, no page shows the old title any more."""
    title = str(request.get_json()["title"])
    done = Session.execute(update(Project).where(Project.short_name == short_name).values(title=title))
    Session.commit()
    if done.rowcount == 0:  # type: ignore[attr-defined]
        abort(404)
    projects.delete_project(short_name)
    feed.add("edit", project=short_name, title=title)
    return jsonify(title=title)
