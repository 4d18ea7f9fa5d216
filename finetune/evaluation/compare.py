"""Compare evaluated runs: one table and one picture, accuracy against latency."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.checkpoints.run import file_name
from finetune.errors import UserError
from finetune.evaluation.coco_eval import KINDS, METRICS
from finetune.evaluation.plots import draw_comparison
from finetune.evaluation.report import check_replaceable
from finetune.evaluation.report_text import figure, markdown_table, origin
from finetune.files import new_folder, read_json, write_json

NOT_MEASURED = "not measured"

Row = dict[str, Any]


def compare_runs(
    paths: Sequence[Path], output: Path, *, split: str = "test", bench: Sequence[Path] = ()
) -> list[Row]:
    """Write ``comparison.md``, ``comparison.json`` and ``comparison.png``; return one row per run.

    Args:
        paths: run folders, or report folders that ``evaluate`` wrote.
        bench: the benchmark's files, to take latencies from instead of the reports.

    Raises:
        UserError: a path is none of these, or the folder cannot be written.
    """
    photos = "train and val split, by folds" if split == "folds" else f"{split} split"
    measured = read_bench(bench) if bench else None
    rows = [row_of(path, split, measured) for path in paths]
    machines = "; ".join(sorted({row["latency_machine"] for row in rows if row["latency_ms"] is not None}))
    text = [
        markdown_table(table_of(rows)),
        f"Average precision in percent on the {photos}; in brackets, 95 % of 1000 resamplings of the photos.",
        f"Latency: median of {'the benchmark, the whole predictor' if bench else '`evaluate`, the network alone'}, "
        f"one photo at a time, on {machines or 'no machine yet'}.",
        "![mask AP50 against latency](comparison.png)",
    ]
    check_replaceable(output, "comparison.json")
    with new_folder(output) as folder:
        (folder / "comparison.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
        write_json(folder / "comparison.json", {"split": split, "rows": rows})
        draw_comparison(
            rows,
            f"Accuracy against latency, {photos}",
            f"latency, ms per photo ({machines})" if machines else "latency",
            folder / "comparison.png",
        )
    return rows


def row_of(path: Path, split: str, bench: dict[str, Any] | None = None) -> Row:
    """What is known about one run: from its report, else from ``run.json`` alone.

    Raises:
        UserError: ``path`` is neither a run nor a report.
    """
    report = _read(path / "report.json") or _read(path / "evaluation" / split / "report.json")
    data = report.get("data", {})
    if report and data.get("split") != split:
        raise UserError(f"{path} is a report on the {data.get('split')} split: give one on {split}")
    record = report.get("training") or _read(path / "run.json")
    backbone = (report or record).get("backbone")
    if not backbone:
        raise UserError(f"{path} is no run and no report: give folders that `train` or `evaluate` made")
    row: Row = {
        "name": report.get("name") or path.resolve().name,
        "backbone": backbone,
        "data": data.get("name"),
        "evaluated": bool(report),
        "segm": report.get("segm"),
        "bbox": report.get("bbox"),
        "init": file_name((record.get("init") or {}).get("weights") or "") or None,
        "iterations": record.get("iterations"),
        "seconds": record.get("seconds"),
        "training_machine": record.get("machine"),
        "weights_sha256": report.get("weights_sha256"),
        "latency_ms": None,
        "latency_machine": None,
    }
    if bench is not None:
        row["latency_ms"] = bench["latency_ms"].get(row["name"], bench["latency_ms"].get(backbone))
        row["latency_machine"] = bench["machine"]
    elif report.get("latency_ms"):
        row["latency_ms"] = report["latency_ms"]["median"]
        row["latency_machine"] = f"{report['machine']}, {report['latency_ms']['precision']}"
    return row


def read_bench(paths: Sequence[Path]) -> dict[str, Any]:
    """Read the benchmark's medians: for each model, those of the fastest engine and precision.

    int8 is left out, since an archive serves it on request only.

    Args:
        paths: the benchmark's files; if a model is in several, the last counts.

    Returns:
        ``{"machine": str, "latency_ms": {backbone or name of a run: median}}``.

    Raises:
        UserError: a path is not the benchmark's file.
    """
    latencies: dict[str, float] = {}
    machines: dict[str, None] = {}
    for path in paths:
        bench = _read(path)
        if not bench:
            raise UserError(f"there is no benchmark at {path}: run `make bench`, or leave --bench out")
        try:
            latencies |= _fastest(bench["rows"])
            machine = bench["machine"]
            where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
            machines[f"{where}, short side {bench['short_side']}"] = None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} is not a file that `make bench` wrote ({error!r}): give that file"
            ) from None
    return {"machine": "; ".join(machines), "latency_ms": latencies}


def _fastest(rows: Sequence[Row]) -> dict[str, float]:
    """The lowest median of each model, in milliseconds."""
    medians: dict[str, float] = {}
    for row in rows:
        if row["contestant"].startswith("ours ") and "int8" not in row["contestant"]:
            median = float(row["median_ms"])
            medians[row["backbone"]] = min(median, medians.get(row["backbone"], median))
    return medians


def table_of(rows: Sequence[Row]) -> list[list[str]]:
    """The whole table as text, head first."""
    columns = [(kind, metric) for kind in KINDS for metric in METRICS[:3]]
    names = {"segm": "mask", "bbox": "box"}
    head = ["run", "backbone", *(f"{names[kind]} {metric}" for kind, metric in columns)]
    table = [[*head, "ms per photo", "from", "steps", "training"]]
    for row in rows:
        minutes = row["seconds"] is not None and f"{row['seconds'] / 60:.0f} min, {row['training_machine']}"
        table.append(
            [
                row["name"],
                row["backbone"],
                *(_figure(row[kind], metric) for kind, metric in columns),
                _latency(row),
                origin(row["init"]),
                str(row["iterations"] or "unknown"),
                minutes or "unknown",
            ]
        )
    return table


def short_table_of(rows: Sequence[Row]) -> list[list[str]]:
    """The main columns, which fit into a terminal of 80 columns."""
    table = [["run", "mask AP", "mask AP50", "box AP", "ms per photo"]]
    for row in rows:
        aps = (("segm", "AP", True), ("segm", "AP50", False), ("bbox", "AP", False))
        figures = [_figure(row[kind], metric, interval) for kind, metric, interval in aps]
        table.append([row["name"], *figures, _latency(row)])
    return table


def _figure(values: dict[str, Any] | None, metric: str, interval: bool = True) -> str:
    return figure(values, metric, interval) if values else NOT_MEASURED


def _latency(row: Row) -> str:
    return NOT_MEASURED if row["latency_ms"] is None else f"{row['latency_ms']:.0f}"


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not what `train` or `evaluate` writes: make it again")
    return content
