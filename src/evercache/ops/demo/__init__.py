"""The demo: a real site on real data, whose cache servers die while it is read."""

from __future__ import annotations

from evercache.ops.demo.options import DemoOptions

__all__ = ["DemoOptions", "run"]


def run(options: DemoOptions | None = None) -> int:
    """Run the demo; the exit code: 0 all promises kept, 1 one broken or set-up failed, 10 the machine was too busy
    to judge, 130 interrupted.

    Needs the extra `demo`. Everything that it starts on loopback ends with it, temporary files too.
    """
    try:
        from evercache.ops.demo.runner import run_demo
    except ModuleNotFoundError as error:
        if (error.name or "evercache").startswith("evercache"):
            raise
        print(f"the demo needs {error.name}: install it with `pip install 'evercache[demo]'`")
        return 1
    return run_demo(options or DemoOptions())
