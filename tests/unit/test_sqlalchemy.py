"""`invalidate_on_commit`: what a session of SQLAlchemy does to the cache when it commits, or does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, create_engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from evercache import Cache


class Base(DeclarativeBase):
    pass


class Project(Base):
    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String, unique=True)


class Site:
    """A database, a cached function that reads it with a session of its own, and what the cache was told."""

    def __init__(self, cache: Cache, path: Path) -> None:
        self.cache, self.path = cache, path
        self.engine = create_engine(f"sqlite:///{path}")
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session:
            session.add_all([Project(id=7, name="old"), Project(id=8, name="eight")])
            session.commit()

        @cache.cached(tags=("project:{i}",))
        def name(i: int) -> str:
            with Session(self.engine) as session:
                found = session.get(Project, i)
                assert found is not None
                return found.name

        self.name: Any = name
        self.told: list[tuple[str, list[str]]] = []
        client = cache._client_sync()
        assert client is not None
        for each in (client.changes, self._asynchronous().changes):
            self._watch(each)

    def _asynchronous(self) -> Any:
        return self.cache._client_async()

    def _watch(self, changes: Any) -> None:
        begin, end = changes.begin, changes.end

        def began(scopes: Any, *rest: Any) -> Any:
            self.told.append(("begin", [str(s.kind) for s in scopes]))
            return begin(scopes, *rest)

        def ended(hold: Any, *rest: Any) -> Any:
            self.told.append(("end", [str(s.kind) for s in hold.scopes]))
            return end(hold, *rest)

        changes.begin, changes.end = began, ended

    @property
    def held(self) -> bool:
        """Whether anything is held at this moment."""
        client = self.cache._client_sync()
        assert client is not None
        return bool(client.engine.state.holds)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Cache("memory://") as cache:
        site = Site(cache, tmp_path / "site.db")
        yield site
        site.engine.dispose()


def rename(session: Session, name: str, i: int = 7) -> None:
    project = session.get(Project, i)
    assert project is not None
    project.name = name


def test_a_commit_invalidates(site: Site) -> None:
    assert site.name(7) == "old"
    with Session(site.engine) as session:
        rename(session, "new")
        site.cache.invalidate_on_commit(session, site.name.key(7), tag="project:7")
        session.flush()
        assert site.told == []
        assert site.name.peek(7) == "old", "until the commit everybody may be served what is"
        session.commit()
        assert site.told == [("begin", ["k", "t"]), ("end", ["k", "t"])]
        assert site.name(7) == site.name.peek(7) == "new"
        session.commit()
        assert len(site.told) == 2, "once"
    assert not site.held


def test_between_its_ends_nothing_is_cached(site: Site) -> None:
    seen = []

    @event.listens_for(site.engine, "commit")
    def while_it_commits(connection: Any) -> None:
        seen.append((site.held, site.name(7), site.name.peek(7)))

    with Session(site.engine) as session, session.begin():
        rename(session, "new")
        site.cache.invalidate_on_commit(session, tag="project:7")
    assert seen == [(True, "old", None)]
    assert site.name(7) == "new"


def test_a_rollback_invalidates_nothing(site: Site) -> None:
    assert site.name(7) == "old"
    with Session(site.engine) as session:
        rename(session, "new")
        site.cache.invalidate_on_commit(session, site.name)
        session.rollback()
        session.commit()
    with Session(site.engine) as session:
        rename(session, "new")
        site.cache.invalidate_on_commit(session, site.name)
    assert site.told == []
    assert site.name.peek(7) == "old"


def test_what_cannot_be_flushed_refuses_nothing(site: Site) -> None:
    with Session(site.engine) as session:
        session.add(Project(id=9, name="eight"))
        site.cache.invalidate_on_commit(session, site.name)
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.commit()
    assert site.told == []


def test_a_commit_that_fails_lets_go_and_marks(site: Site) -> None:
    """Nobody knows whether it happened."""
    assert site.name(7) == "old"

    @event.listens_for(site.engine, "commit")
    def breaks(connection: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("the connection is gone"))

    with Session(site.engine) as session:
        rename(session, "new")
        site.cache.invalidate_on_commit(session, site.name)
        with pytest.raises(OperationalError):
            session.commit()
        assert site.held
        session.rollback()
        assert not site.held
    assert site.told == [("begin", ["f"]), ("end", ["f"])]
    assert site.name.peek(7) is None


def test_what_was_named_under_a_savepoint_goes_with_it(site: Site) -> None:
    with Session(site.engine) as session:
        rename(session, "new")
        site.cache.invalidate_on_commit(session, tag="project:7")
        with session.begin_nested() as savepoint:
            site.cache.invalidate_on_commit(session, site.name)
            savepoint.rollback()
        session.commit()
    assert site.told == [("begin", ["t"]), ("end", ["t"])]


def test_what_was_named_under_savepoints_that_stay(site: Site) -> None:
    with Session(site.engine) as session:
        with session.begin_nested():
            with session.begin_nested():
                rename(session, "new")
                site.cache.invalidate_on_commit(session, site.name)
            assert site.told == [], "nobody else sees anything of it yet"
        session.commit()
        assert site.told == [("begin", ["f"]), ("end", ["f"])]
        with session.begin_nested() as outer:
            with session.begin_nested():
                site.cache.invalidate_on_commit(session, site.name)
            outer.rollback()
        session.commit()
    assert len(site.told) == 2


def test_a_commit_to_the_root(site: Site) -> None:
    with Session(site.engine) as session:
        session.begin_nested()
        rename(session, "new")
        site.cache.invalidate_on_commit(session, site.name)
        session.commit()
        assert site.told == [("begin", ["f"]), ("end", ["f"])]


def test_each_transaction_has_its_own(site: Site) -> None:
    with Session(site.engine) as session:
        for i in (7, 8):
            rename(session, f"new {i}", i)
            site.cache.invalidate_on_commit(session, site.name.key(i))
            session.commit()
    assert site.told == 2 * [("begin", ["k"]), ("end", ["k"])]


def test_scoped_sessions(site: Site) -> None:
    session = scoped_session(sessionmaker(site.engine))
    session.get_one(Project, 7).name = "new"
    site.cache.invalidate_on_commit(session, site.name)
    session.commit()
    session.remove()
    assert site.name(7) == "new"
    session.get_one(Project, 7).name = "newer"
    site.cache.invalidate_on_commit(session, site.name)
    session.remove()
    assert len(site.told) == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_flask_sqlalchemy(site: Site) -> None:
    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy

    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{site.path}"
    db = SQLAlchemy(model_class=Base)
    db.init_app(app)
    with app.app_context():
        db.session.get_one(Project, 7).name = "new"
        site.cache.invalidate_on_commit(db.session, tag="project:7")
        db.session.commit()
        assert site.name(7) == "new"
        db.engine.dispose()
    assert site.told == [("begin", ["t"]), ("end", ["t"])]


@pytest.mark.parametrize("scoped", [False, True])
async def test_for_tasks(site: Site, scoped: bool) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{site.path}")
    maker = async_sessionmaker(engine)
    session: Any = async_scoped_session(maker, lambda: 1) if scoped else maker()
    assert site.name(7) == "old"
    project = await session.get(Project, 7)
    project.name = "new"
    site.cache.invalidate_on_commit(session, site.name)
    client = site.cache._client_sync()
    assert client is not None
    client.changes.begin = client.changes.end = None  # type: ignore[assignment,method-assign]  # they would block the loop
    await session.commit()
    assert site.told == [("begin", ["f"]), ("end", ["f"])]
    assert site.name(7) == "new"
    await session.refresh(project)
    site.cache.invalidate_on_commit(session, site.name)
    await session.rollback()
    await session.commit()
    await session.close()
    await engine.dispose()
    assert len(site.told) == 2


async def test_a_session_for_tasks_whose_inner_one_is_used(site: Site) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{site.path}")
    async with AsyncSession(engine) as session:
        site.cache.invalidate_on_commit(session, site.name)
        session.sync_session.commit()  # nothing was read: no I/O in it
    await engine.dispose()
    # Each was made for tasks first, could not be waited for, and done by the client for threads.
    assert [what for what, _ in site.told] == ["begin", "begin", "end", "end"]
    assert not site.held


def test_without_a_transaction_it_waits_for_the_next(site: Site) -> None:
    with Session(site.engine) as session:
        site.cache.invalidate_on_commit(session, site.name)
        with session.begin():
            session.execute(text("update project set name = 'new' where id = 7"))
    assert site.name(7) == "new"
    assert len(site.told) == 2


def test_a_cache_that_is_off(site: Site) -> None:
    with site.cache.disabled(), Session(site.engine) as session:
        site.cache.invalidate_on_commit(session, site.name)
        session.commit()
    assert site.told == []


def test_without_greenlet(tmp_path: Path) -> None:
    """SQLAlchemy 2.1 does not bring it. The extra was installed, and the error asked for the extra."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; sys.modules['greenlet'] = None\n"
        "from sqlalchemy import create_engine, text\n"
        "from sqlalchemy.orm import Session, scoped_session, sessionmaker\n"
        "from evercache import Cache\n"
        "cache, engine = Cache('memory://'), create_engine('sqlite://')\n"
        "for session in (Session(engine), scoped_session(sessionmaker(engine))):\n"
        "    cache.set('k', 1)\n"
        "    session.execute(text('select 1'))\n"
        "    cache.invalidate_on_commit(session, 'k')\n"
        "    session.commit()\n"
        "    print(cache.get('k'))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["None", "None"], "")


def test_mistakes(site: Site) -> None:
    with pytest.raises(TypeError, match="no session"):
        site.cache.invalidate_on_commit("session", site.name)  # type: ignore[arg-type]
    with Session(site.engine) as session, pytest.raises(TypeError, match="name what"):
        site.cache.invalidate_on_commit(session)
