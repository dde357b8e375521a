"""The report as files: JSON for programs, and one HTML page that needs nothing else, for people."""

from __future__ import annotations

import importlib.util
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from evercache.errors import DrillRefused, PackageMissing
from evercache.ops.drill.charts import LEGEND, chart
from evercache.ops.drill.client import FUNCTION
from evercache.ops.drill.document import Report, as_json
from evercache.ops.drill.measure import BUDGET, STALE
from evercache.ops.drill.records import EDITED, KEYS
from evercache.ops.drill.verdict import seconds
from evercache.ops.files import disk_errors

_TONES = {"kept": "good", "interrupted": "warn", "nothing": "warn", "unjudged": "warn"}

__all__ = ["files", "headline", "require", "write"]


def files(out: Path) -> tuple[Path, Path]:
    """The page and the document in a folder."""
    return out / "drill.html", out / "drill.json"


def require(out: Path) -> None:
    """PackageMissing or DrillRefused now rather than when all has been measured."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise PackageMissing(f"the report of a drill needs {package}: run  pip install 'evercache[drill]'")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise DrillRefused(
            f"the report cannot be written to {out} ({error.strerror}): choose another --out"
        ) from error


def write(report: Report, out: Path) -> None:
    """Both files."""
    page, document = files(out)
    with disk_errors(out):
        document.write_text(as_json(report), encoding="utf-8")
        page.write_text(as_page(report), encoding="utf-8")


def as_page(report: Report) -> str:
    """The HTML: no script, nothing that is loaded."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("evercache.ops.drill"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["seconds"] = seconds
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    title, text = headline(report)
    charts = {step.name: (chart(step), chart(step, narrow=True)) for step in report.measured}
    return environment.get_template("drill.html").render(
        report=report,
        facts=report.environment,
        started=datetime.fromisoformat(report.environment["started"]),
        title=title,
        text=text,
        tone=_TONES.get(report.state, "bad"),
        tiles=_tiles(report),
        charts=charts,
        legend=LEGEND,
        budget=BUDGET,
        stale=STALE,
        function=FUNCTION,
        keys=KEYS,
        edited=EDITED,
    )


def headline(report: Report) -> tuple[str, str]:
    """What a reader has to know, in a line and in a sentence."""
    measured, promises = report.measured, report.promises
    broken = [promise.text for promise in promises if promise.kept is False]
    unjudged = "; ".join(f"{promise.text}: {promise.seen}" for promise in promises if promise.kept is None)
    tried, wanted = len(report.finished), sum(step.state != "skipped" for step in report.steps)
    faults = "1 fault was tried" if tried == 1 else f"{tried} faults were tried"
    back = "Everything was put back." if report.whole else "Not everything could be put back."
    match report.state:
        case "kept":
            return "No visitor noticed.", f"{faults}, and all {len(promises)} promises were kept. {back}"
        case "broken":
            verb = "was" if len(broken) == 1 else "were"
            what = "; ".join(broken) or "see the steps"
            what += f". Not judged: {unjudged}" if unjudged else ""
            return f"{len(broken)} of {len(promises)} promises {verb} broken.", f"{faults}. Broken: {what}. {back}"
        case "unjudged":
            return (
                "The machine was too busy to judge.",
                f"{faults}, and no promise was broken. Not judged: {unjudged or 'see the steps'}. "
                f"Run the drill again when the machine has less to do. {back}",
            )
        case "failed":
            return "The drill could not go on.", f"{report.trouble} {back}"
        case "interrupted":
            kept = "Until then every promise was kept. " if measured else ""
            kept = f"Until then no promise was broken. Not judged: {unjudged}. " if unjudged else kept
            verb = "was" if tried == 1 else "were"
            return "Interrupted.", f"{tried} of {wanted} faults {verb} tried to the end. {kept}{back}"
        case _:
            return "Nothing was tried.", f"No step was chosen. {back}"


def _tiles(report: Report) -> list[dict[str, Any]]:
    """The figures at the top: value, words, bound, and whether it is kept."""
    all_figures = [step.figures for step in report.measured if step.figures is not None]
    if not all_figures:
        return []
    kept = {promise.name: promise.kept for promise in report.promises}
    errors, reads = sum(f.errors for f in all_figures), sum(f.reads for f in all_figures)
    tiles = [
        ("errors", f"{errors:,}", "errors", f"in {reads:,} reads"),
        (
            "slowest",
            seconds(max(f.slowest_seen for f in all_figures)),
            "the longest wait",
            f"promised: {seconds(BUDGET)}",
        ),
        (
            "stale",
            seconds(max(f.stalest_seen for f in all_figures)),
            "the oldest data",
            f"promised: {seconds(STALE)}",
        ),
    ]
    times = [f.promotion for f in all_figures if f.promotion is not None]
    if times:
        bound = next(promise.bound for promise in report.promises if promise.name == "promotion")
        tiles.append(("promotion", seconds(max(times)), "until another master", f"expected: {bound}"))
    return [
        {"value": value, "words": words, "bound": bound, "kept": kept[name]} for name, value, words, bound in tiles
    ]
