"""The words and tables of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from finetune.evaluation.coco_eval import KINDS, METRICS
from finetune.evaluation.plots import KIND_NAMES

Record = dict[str, Any]


def figure(values: Record, metric: str, interval: bool = True) -> str:
    """``62.1``, with its interval ``62.1 (50.3–71.0)`` if there is one, or ``n/a`` if there was nothing to measure."""
    bounds = values.get("intervals", {}).get(metric) if interval else None
    return number(values[metric]) + (f" ({bounds[0]:.1f}–{bounds[1]:.1f})" if bounds else "")


def number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def report_rows(report: Record, intervals: Sequence[str] = METRICS[:3]) -> list[list[str]]:
    """The table of one evaluation: masks, boxes, and each class if there are several.

    Args:
        intervals: metrics to give a 95 % interval; with one, the table fits into 80 columns.
    """
    rows = [["", *METRICS]]
    for kind in KINDS:
        values = report[kind]
        rows.append([KIND_NAMES[kind], *(figure(values, m, m in intervals) for m in METRICS)])
        for name, per_class in values.get("per_class", {}).items():
            rows.append([f"– {name}", *(number(per_class[m]) for m in METRICS)])
    return rows


def origin(weights: str | None) -> str:
    """Where initial weights come from: ``imagenet``, ``coco`` … unchanged; the name of a file or URL."""
    return Path(urlsplit(weights).path).name if weights else "unknown"


def shown_sentences(report: Record) -> list[str]:
    """What a user sees at the operating point: found, false, and false alarms on photos without objects."""
    point, at = report["operating_point"], report["at_operating_point"]
    own = "".join(f", {name} ≥ {score:g}" for name, score in point["per_class"].items())
    sentences = [
        f"score ≥ {point['score_threshold']:g}{own}: {at['found']} of {at['found'] + at['missed']} objects found,"
        f" {at['false']} false"
    ]
    return sentences + [
        f"{where}: {alarms['alarms_per_photo']:.2f} false alarms a photo,"
        f" {alarms['photos_with_alarms']:.0f} % of {alarms['photos']} photos have one"
        for where, alarms in report["false_alarms"].items()
        if alarms
    ]


def markdown(report: Record) -> str:
    """``report.md``, from the template ``report.md.j2``."""
    environment = Environment(  # Markdown, not HTML
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "origin": origin, "table": markdown_table}
    classes = report["data"]["classes"]
    confused = [["true class ↓, shown as →", *classes, "missed"]]
    for name, row in zip([*classes, "nothing (false)"], report["confusion"], strict=True):
        confused.append([name, *map(str, row)])
    confused[-1][-1] = ""  # nothing shown where nothing is
    return environment.get_template("report.md.j2").render(
        report, average_precision=report_rows(report), shown=shown_sentences(report), confused=confused
    )
