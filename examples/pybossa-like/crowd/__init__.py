"""A small crowdsourcing site of the kind PyBossa is: `flask --app crowd run`. See README.md beside this folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask

from crowd import database, settings
from crowd.cache import sentinel

__all__ = ["create_app"]


def create_app(changed: Mapping[str, Any] | None = None) -> Flask:
    """The application, with the settings of `settings.py`, and those in `changed` over them."""
    app = Flask(__name__)
    app.config.from_mapping(settings.from_environment())
    app.config.from_mapping(changed or {})
    database.init_app(app)
    sentinel.init_app(app)
    # Only now, as PyBossa does it: these take `sentinel.master` when they are imported, and the Sentinel of 2013
    # has it from here on. (That of evercache has it from the beginning.)
    from crowd import api, commands, views

    app.register_blueprint(views.pages)
    app.register_blueprint(api.api)
    commands.add(app)
    return app
