"""Work that pages leave to a worker, by RQ.

Redis replicates later: a job that a master took is lost when that dies before a replica has it. So a job that
must run is a row of the database, written in the transaction that calls for it, and the queue carries its number.
What is not done is put into the queue again; so each function may run twice, and counts anew instead of adding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from rq import Queue
from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from crowd.cache import sentinel
from crowd.cache.projects import delete_progress
from crowd.cache.users import delete_leaderboard
from crowd.database import Job, Score, Session, Task, TaskRun
from crowd.optional import attempt

__all__ = ["hand_over", "hand_over_again", "order", "queue", "run"]

#: When the module is imported, as PyBossa has it.
queue = Queue("crowd", connection=sentinel.master)
#: Seconds after which what is not done is put into the queue again.
_PATIENCE = 5.0


def order(function: str, argument: object) -> Job:
    """Have something done after the commit of this transaction: then call `hand_over`."""
    job = Job(function=function, argument=str(argument), handed=datetime.now())
    Session.add(job)
    return job


def hand_over(*numbers: int) -> None:
    """Put jobs into the queue; where the servers refuse, `hand_over_again` does it later."""

    def enqueue() -> None:
        for number in numbers:
            queue.enqueue("crowd.jobs.run", number, result_ttl=60)

    attempt(enqueue, None)


def hand_over_again() -> int:
    """Put into the queue what should have been done long ago; how many."""
    now = datetime.now()
    late = or_(Job.handed.is_(None), Job.handed < now - timedelta(seconds=_PATIENCE))
    numbers = list(Session.scalars(select(Job.id).where(Job.done.is_(None), late).limit(1000)))
    if numbers:
        Session.execute(update(Job).where(Job.id.in_(numbers)).values(handed=now))
        Session.commit()
        hand_over(*numbers)
    return len(numbers)


def run(number: int) -> None:
    """What the worker calls."""
    job = Session.get(Job, number)
    if job is not None and job.done is None:
        FUNCTIONS[job.function](job.argument)
        Session.execute(update(Job).where(Job.id == number).values(done=datetime.now()))
        Session.commit()
    Session.remove()


# -- the jobs


def refresh_score(user: str) -> None:
    """Count somebody's answers for the leaderboard."""
    score = select(func.count(TaskRun.id)).where(TaskRun.user == user).scalar_subquery()
    row = insert(Score).values(user=user, score=score)
    Session.execute(row.on_conflict_do_update(index_elements=[Score.user], set_={"score": score}))
    Session.commit()
    delete_leaderboard()


def refresh_progress(project_id: str) -> None:
    """Complete the tasks of a project that have all their answers."""
    runs = select(func.count(TaskRun.id)).where(TaskRun.task_id == Task.id).scalar_subquery()
    open_ = (Task.project_id == int(project_id), Task.completed.is_(False), runs >= Task.n_answers)
    Session.execute(update(Task).where(*open_).values(completed=True).execution_options(synchronize_session=False))
    Session.commit()
    delete_progress(int(project_id))


FUNCTIONS: Mapping[str, Callable[[str], None]] = {
    "refresh_score": refresh_score,
    "refresh_progress": refresh_progress,
}
