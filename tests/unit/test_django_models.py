"""What is cached ends at the commit of what it depends on, and not at a rollback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.db import DatabaseError, connection, transaction
from django.test import override_settings
from tests.unit.django_shop.models import Project, Task, Urgent
from tests.unit.django_site import caches_setting

from evercache.integrations.django import cache_of, invalidate_on_commit
from evercache.integrations.django.models import cached, tags_of
from evercache.testing import MemoryStores, memory


@pytest.fixture(scope="module", autouse=True)
def _tables() -> Iterator[None]:
    with connection.schema_editor() as editor:
        for model in (Project, Urgent, Task):
            editor.create_model(model)
    yield
    with connection.schema_editor() as editor:
        for model in (Task, Urgent, Project):
            editor.delete_model(model)


@pytest.fixture(autouse=True)
def stores() -> Iterator[MemoryStores]:
    with memory() as stores, override_settings(CACHES=caches_setting()):
        yield stores
        for model in (Task, Project):
            model.objects.all().delete()


Depends = Callable[[], bool]


@pytest.fixture
def kept() -> Callable[..., Depends]:
    """`kept(tags)()`: whether what has these tags is still cached since it was last asked."""

    def begin(*tags: str) -> Depends:
        cache = cache_of("default")

        def ask() -> bool:
            found = cache.get("depends") is not None
            cache.set("depends", 1, tags=tags)
            return found

        ask()
        return ask

    return begin


def test_a_function_follows_models() -> None:
    runs: list[int] = []

    @cached(models=(Project, "django_shop.Task"), ttl=60)
    def names() -> list[str]:
        runs.append(1)
        return [project.name for project in Project.objects.order_by("pk")]

    Project.objects.create(name="a")
    assert names() == names() == ["a"]
    project = Project.objects.get()
    project.name = "b"
    project.save()
    assert names() == ["b"]
    Task.objects.create(project=project)
    assert names() == ["b"]
    project.delete()
    assert names() == []
    assert len(runs) == 4


def test_one_row_is_followed_by_itself(kept: Any) -> None:
    one, other = Project.objects.create(name="1"), Project.objects.create(name="2")
    still = kept(*tags_of(one))
    other.save()
    assert still()
    one.save()
    assert not still()
    Project.objects.filter(pk=other.pk).update(name="3")
    assert not still(), "nobody knows which rows it was"
    Project.objects.bulk_create([Project(name="4")])
    assert not still()
    other.name = "5"
    Project.objects.bulk_update([other], ["name"])
    assert not still()
    Project.objects.filter(pk=other.pk).delete()
    assert still()
    Project.objects.filter(pk=one.pk).delete()
    assert not still()


def test_a_cascade_many_to_many_and_a_child_class_are_seen(kept: Any) -> None:
    project = Project.objects.create(name="a")
    task = Task.objects.create(project=project)
    of_task, of_projects = tags_of(Task), tags_of(Project)
    still = kept(*tags_of(task))
    task.helps.add(project)
    assert not still()
    project.helped_by.remove(task)
    assert not still()
    task.helps.set([project])
    assert not still()
    task.helps.clear()
    assert not still()
    still = kept(*of_task)
    project.delete()
    assert not still()
    still = kept(*of_projects)
    child = Urgent.objects.create(name="b")
    assert not still()
    child.delete()
    assert not still()


def _taken_back(project: Project) -> None:
    with contextlib.suppress(DatabaseError), transaction.atomic():
        project.save()
        raise DatabaseError


def test_what_a_rollback_takes_back_ends_nothing(kept: Any) -> None:
    project = Project.objects.create(name="a")
    still = kept(*tags_of(project))
    _taken_back(project)
    assert still()
    with transaction.atomic():
        _taken_back(project)  # a savepoint
    assert still()
    with transaction.atomic():
        with transaction.atomic():
            project.save()
        assert still(), "not before the commit"
    assert not still()


def test_nothing_is_kept_that_was_read_before_the_commit() -> None:
    """While the COMMIT runs fills are refused, so that no reader stores what it has read before."""
    project = Project.objects.create(name="a")
    kept: list[bool] = []

    @cache_of("default").cached(ttl=60, tags=tags_of(project))
    def name() -> str:
        return Project.objects.get().name

    with transaction.atomic():
        project.name = "b"
        project.save()
        commit = connection._evercache_commit  # type: ignore[attr-defined]

        def slow() -> None:
            connection._evercache_commit = commit  # type: ignore[attr-defined]
            name()
            kept.append(name.peek() is not None)
            commit()

        connection._evercache_commit = slow  # type: ignore[attr-defined]
    assert kept == [False]
    assert name() == name.peek() == "b"


def test_keys_and_functions_wait_for_the_commit_too() -> None:
    cache = cache_of("default")

    @cache.cached(ttl=60)
    def f(a: int) -> int:
        return a

    f(1), f(2)
    cache.set("k", 1)
    with transaction.atomic():
        invalidate_on_commit(f.key(1), "k", tag="t")
        assert (f.peek(1), cache.get("k")) == (1, 1)
    assert (f.peek(1), f.peek(2), cache.get("k")) == (None, 2, None)
    invalidate_on_commit(f)
    assert f.peek(2) is None, "without a transaction it is done at once"
    with pytest.raises(TypeError, match="name what is being changed"):
        invalidate_on_commit()


def test_a_test_that_runs_the_functions_of_a_commit_invalidates(kept: Any) -> None:
    from django.test import TestCase

    project = Project.objects.create(name="a")
    still = kept(*tags_of(project))
    with transaction.atomic():  # as TestCase puts around each test
        with TestCase.captureOnCommitCallbacks(execute=True):
            project.save()
        assert not still()
        transaction.set_rollback(True)


def test_all_servers_down_is_no_error_of_a_save() -> None:
    with override_settings(CACHES=caches_setting("redis://127.0.0.1:1")):
        assert caches["default"].get("k") is None
        tags_of(Project)
        with transaction.atomic():
            Project.objects.create(name="a")
        assert Project.objects.count() == 1
