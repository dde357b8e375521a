"""How often somebody may call: counted on the master, in windows of some minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask import Response, current_app, jsonify, request
from flask.typing import ResponseReturnValue

from crowd.cache import sentinel
from crowd.optional import attempt

__all__ = ["ratelimit"]

P = ParamSpec("P")


def ratelimit(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Refuse who calls too often. While nobody can count, nobody is refused."""

    @wraps(view)
    def limited(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        limit, per = current_app.config["RATE_LIMIT"], current_app.config["RATE_PER"]
        ends = (int(time.time()) // per + 1) * per
        who = request.args.get("user") or request.remote_addr
        if attempt(lambda: _count(f"ratelimit/{who}/{ends}", ends), 0) <= limit:
            return view(*args, **kwargs)
        refusal: Response = jsonify(error="too many calls", again_at=ends)
        refusal.status_code = 429
        return refusal

    return limited


def _count(key: str, ends: int) -> int:
    with sentinel.master.pipeline() as pipe:
        pipe.incr(key)
        pipe.expireat(key, ends + 10)
        return int(pipe.execute()[0])
