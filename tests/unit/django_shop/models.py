"""Models with what can change a row of another one: a cascade, many to many, a child class."""

from __future__ import annotations

from django.db import models

from evercache.integrations.django.models import FollowedQuerySet

__all__ = ["Project", "Task", "Urgent"]


class Project(models.Model):
    name = models.TextField()
    objects = FollowedQuerySet.as_manager()

    class Meta:
        app_label = "django_shop"


class Urgent(Project):
    class Meta:
        app_label = "django_shop"


class Task(models.Model):
    project = models.ForeignKey(Project, models.CASCADE)
    helps = models.ManyToManyField(Project, related_name="helped_by")

    class Meta:
        app_label = "django_shop"
