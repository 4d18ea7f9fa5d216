"""Compare evaluated runs: one table and one picture, accuracy against latency."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.evaluation.coco_eval import KINDS, METRICS
from finetune.evaluation.plots import draw_ap_against_time
from finetune.evaluation.report import check_replaceable
from finetune.evaluation.report_text import figure, markdown_table, origin
from finetune.files import new_folder, read_json, write_json

Report = dict[str, Any]


def compare_runs(paths: Sequence[Path], output: Path, *, split: str = "test") -> list[Report]:
    """Write ``comparison.md``, ``comparison.json`` and ``comparison.png``; return the runs' reports.

    Args:
        paths: run folders, or report folders that ``evaluate`` wrote.

    Raises:
        UserError: a path has no report on the split, or the folder cannot be written.
    """
    photos = "train and val split, by folds" if split == "folds" else f"{split} split"
    reports = [read_report(path, split) for path in paths]
    timed = [report for report in reports if "latency_ms" in report]
    machines = sorted({f"{report['machine']}, {report['latency_ms']['precision']}" for report in timed})
    text = [
        markdown_table(table_of(reports)),
        f"Average precision in percent on the {photos}; in brackets, 95 % of 1000 resamplings of the photos.",
        f"Latency: median of the network alone, one photo at a time, on {'; '.join(machines) or 'no machine yet'}.",
        "![mask AP50 against latency](comparison.png)",
    ]
    points = [
        (
            report["latency_ms"]["median"],
            ap,
            report["segm"]["intervals"]["AP50"],
            f"{report['name']}\n{ap:.1f}",
        )
        for report in timed
        if (ap := report["segm"]["AP50"]) is not None
    ]
    check_replaceable(output, "comparison.json")
    with new_folder(output) as folder:
        (folder / "comparison.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
        write_json(folder / "comparison.json", {"split": split, "reports": reports})
        title = f"Accuracy against latency, {photos}"
        draw_ap_against_time(points, title, "mask AP50 (%), 95 % interval", folder / "comparison.png")
    return reports


def read_report(path: Path, split: str) -> Report:
    """The report of a run folder on a split, or the one in a folder that ``evaluate --output`` wrote.

    Raises:
        UserError: there is none, or it is damaged.
    """
    for file in (path / "report.json", path / "evaluation" / split / "report.json"):
        if file.is_file():
            report = read_json(file, cure="evaluate again")
            if not isinstance(report, dict) or report.get("data", {}).get("split") != split:
                raise UserError(
                    f"{file} is no report on the split {split}: evaluate again, or change --split"
                )
            return report
    raise UserError(f"{path} has no report on the split {split}: run `maskrcnn evaluate {path}` first")


def table_of(reports: Sequence[Report]) -> list[list[str]]:
    """The whole table as text, head first."""
    columns = [(kind, metric) for kind in KINDS for metric in METRICS[:3]]
    names = {"segm": "mask", "bbox": "box"}
    head = ["run", "backbone", *(f"{names[kind]} {metric}" for kind, metric in columns)]
    table = [[*head, "ms per photo", "from", "steps", "training"]]
    for report in reports:
        record = report.get("training") or {}
        seconds, weights = record.get("seconds"), record.get("init", {}).get("weights")
        row = [report["name"], report["backbone"]]
        row += [figure(report[kind], metric) for kind, metric in columns]
        row += [_latency(report), origin(weights), str(record.get("iterations") or "unknown")]
        table.append([*row, f"{seconds / 60:.0f} min, {record['machine']}" if seconds else "unknown"])
    return table


def short_table_of(reports: Sequence[Report]) -> list[list[str]]:
    """The main columns, which fit into a terminal of 80 columns."""
    table = [["run", "mask AP", "mask AP50", "box AP", "ms per photo"]]
    for report in reports:
        masks, boxes = report["segm"], report["bbox"]
        figures = [figure(masks, "AP"), figure(masks, "AP50", False), figure(boxes, "AP", False)]
        table.append([report["name"], *figures, _latency(report)])
    return table


def _latency(report: Report) -> str:
    return f"{report['latency_ms']['median']:.0f}" if "latency_ms" in report else "not measured"
