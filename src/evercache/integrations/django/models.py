"""Tags that follow the rows of models.

What is cached with `tags_of(Project)` ends when any row of Project is saved or deleted through Django, and with
`tags_of(project)` when that row is: at the commit, as by `invalidate_on_commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from django.apps import apps
from django.db.models import Model, QuerySet
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save

from evercache.integrations.django.aliases import cache_of
from evercache.integrations.django.transactions import invalidate_on_commit
from evercache.process import new_lock

__all__ = ["FollowedQuerySet", "cached", "tags_of"]

M = TypeVar("M", bound=Model)
F = TypeVar("F", bound=Callable[..., Any])

#: `app.model` of the models that are followed, and the aliases of the caches in which something depends on them.
_followed: dict[str, set[str]] = {}
_lock = new_lock()
_UID = "evercache"


def tags_of(*things: type[Model] | Model | QuerySet[Any] | str, alias: str = "default") -> tuple[str, ...]:
    """The tags of what depends on models (a class, a query set, or `"app.Model"`) or on single rows (an instance).

    From now on changes of these models, made through Django, end what has the tags in the cache of that alias.
    """
    found: list[str] = []
    for thing in things:
        if isinstance(thing, str):
            label = thing.lower()
        else:
            label = _label(thing.model if isinstance(thing, QuerySet) else thing)
        _follow(label, alias)
        if isinstance(thing, Model):
            found += (f"row:{label}:{thing.pk}", f"rows:{label}")
        else:
            found.append(f"table:{label}")
    return tuple(dict.fromkeys(found))


def cached(
    *, models: Iterable[type[Model] | str] = (), tags: Iterable[Any] = (), alias: str = "default", **options: Any
) -> Callable[[F], F]:
    """`cache_of(alias).cached(...)` for a function whose results end with any change of a row of these models."""
    return cache_of(alias).cached(tags=(*tags, *tags_of(*models, alias=alias)), **options)  # type: ignore[return-value]


class FollowedQuerySet(QuerySet[M]):
    """Its `update` and `bulk_...` end what depends on the model: `objects = FollowedQuerySet.as_manager()`.

    What depends on a single row ends with each of them, since nobody knows which rows it was.
    """

    def update(self, **values: Any) -> int:
        """See Django's; `bulk_update` and `aupdate` come here."""
        changed = super().update(**values)
        _changed(self.model, self.db, rows=True)
        return changed

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[M], *arguments: Any, **options: Any) -> list[M]:
        """See Django's; with conflicts, rows that exist may change."""
        made = super().bulk_create(objs, *arguments, **options)
        _changed(self.model, self.db, rows=True)
        return made


def _label(model: Any) -> str:
    """`app.model` of the table, also for a proxy."""
    return str(model._meta.concrete_model._meta.label_lower)


def _labels(model: type[Model]) -> Iterator[str]:
    """Of the tables that a row of this model is in: multi-table inheritance."""
    yield _label(model)
    for parent in model._meta.get_parent_list():
        yield _label(parent)


def _follow(label: str, alias: str) -> None:
    if alias in _followed.get(label, ()):
        return
    with _lock:
        first = not _followed
        _followed.setdefault(label, set()).add(alias)
    if first:
        class_prepared.connect(_listen, dispatch_uid=_UID)
        m2m_changed.connect(_on_m2m, dispatch_uid=_UID)
    for models in list(apps.all_models.values()):
        for model in list(models.values()):
            _listen(model)


def _listen(sender: type[Model], **_: Any) -> None:
    """Hear of the rows of a model, if it is followed, or has one that is among its parents."""
    if sender._meta.abstract or sender._meta.concrete_model is None:
        return
    if any(label in _followed for label in _labels(sender)):
        for signal in (post_save, post_delete):
            signal.connect(_on_row, sender=sender, dispatch_uid=_UID)


def _on_row(sender: type[Model], instance: Model, using: str, **_: Any) -> None:
    _changed(sender, using, [instance.pk])


def _on_m2m(
    action: str, instance: Model, model: type[Model], pk_set: set[Any] | None, using: str, **_: Any
) -> None:
    if action.startswith("post_"):
        _changed(type(instance), using, [instance.pk])
        _changed(model, using, pk_set or (), rows=pk_set is None)


def _changed(model: type[Model], using: str, pks: Iterable[Any] = (), *, rows: bool = False) -> None:
    """Rows of a model change; `rows`: any of them."""
    tags: dict[str, list[str]] = {}
    for label in _labels(model):
        for alias in _followed.get(label, ()):
            mine = tags.setdefault(alias, [])
            mine += (f"table:{label}", *(f"row:{label}:{pk}" for pk in pks))
            if rows:
                mine.append(f"rows:{label}")
    for alias, names in tags.items():
        invalidate_on_commit(tag=names, using=using, cache=cache_of(alias))
