"""The database: SQLite by SQLAlchemy. PyBossa has PostgreSQL; nothing of what the cache does depends on it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Flask
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

__all__ = ["Base", "Job", "Project", "Score", "Session", "Task", "TaskRun", "close", "init_app"]

#: One session for each thread, ended with the request.
Session = scoped_session(sessionmaker(expire_on_commit=False))


class Base(DeclarativeBase):
    """The tables."""


class Project(Base):
    """What people contribute to."""

    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True)
    short_name: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    description: Mapped[str]


class Task(Base):
    """One question, which needs several answers."""

    __tablename__ = "task"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    question: Mapped[str]
    n_answers: Mapped[int] = mapped_column(default=3)
    completed: Mapped[bool] = mapped_column(default=False)


class TaskRun(Base):
    """One answer of somebody."""

    __tablename__ = "task_run"
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("project.id"), index=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), index=True)
    user: Mapped[str] = mapped_column(index=True)
    answer: Mapped[str]
    created: Mapped[datetime]


class Score(Base):
    """How many answers somebody gave, as `jobs.refresh_score` counted them last."""

    __tablename__ = "score"
    user: Mapped[str] = mapped_column(primary_key=True)
    score: Mapped[int] = mapped_column(index=True)


class Job(Base):
    """Something that must be done later, written in the transaction that calls for it (see `jobs.py`)."""

    __tablename__ = "job"
    id: Mapped[int] = mapped_column(primary_key=True)
    function: Mapped[str]
    argument: Mapped[str]
    #: When it was last put into the queue, and when it was done.
    handed: Mapped[datetime | None]
    done: Mapped[datetime | None] = mapped_column(index=True)


def init_app(app: Flask) -> None:
    """Take the database of an application."""
    close()
    engine = create_engine(app.config["DATABASE"], connect_args={"timeout": 10})
    event.listen(engine, "connect", _prepare)
    Session.configure(bind=engine)
    app.teardown_appcontext(lambda _: Session.remove())


def close() -> None:
    """End this thread's session and all connections."""
    Session.remove()
    engine = Session.session_factory.kw.get("bind")
    if engine is not None:
        engine.dispose()


def _prepare(connection: Any, _: object) -> None:
    # Readers do not wait for the writer.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
