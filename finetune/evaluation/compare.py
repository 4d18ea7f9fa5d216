"""``python -m finetune compare``: evaluated runs side by side, accuracy against latency."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.checkpoints.run import file_name
from finetune.errors import UserError

DESCRIPTION = """\
Put evaluated runs into one table (comparison.md, comparison.json) and one picture (comparison.png: mask AP50
against latency). Every number is one that `evaluate` or the benchmark measured; what was not measured says
so.

  python -m finetune compare runs/resnet50_fpn runs/resnet101_fpn runs/mobilenetv2_fpn runs/vovnet19_fpn
"""

# What the project that this one follows reports for the official balloon photos: (segm AP, AP50), (bbox AP,
# AP50), and milliseconds on a GPU that it does not name. Its models start from COCO weights.
ORIGINAL = {
    "resnet50_fpn": ((77.6, 84.2), (69.8, 84.6), 134),
    "resnet101_fpn": ((77.8, 88.5), (64.6, 88.5), 179),
    "mobilenetv2_fpn": ((50.8, 62.7), (48.4, 62.7), 98),
    "vovnet19_fpn": ((76.0, 85.0), (65.9, 85.6), 96),
}
NOT_MEASURED = "not measured"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``compare``."""
    parser = subparsers.add_parser(
        "compare",
        help="one table and one picture: accuracy against latency",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="a run folder, or a folder that `evaluate --output` made",
    )
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument(
        "--bench",
        type=Path,
        nargs="+",
        metavar="FILE.json",
        help="take latencies from what `make bench` wrote instead: reports/bench_*/bench_predictor.json",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"), metavar="DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the last line printed is the path of the table."""
    from tabulate import tabulate

    from finetune.evaluation.plots import draw_comparison
    from finetune.evaluation.report_files import markdown_table, new_folder

    bench = read_bench(args.bench) if args.bench else None
    rows = [row_of(path, args.split, bench) for path in args.runs]
    table, notes = table_of(rows, args.split), notes_of(rows, args.split, bench)
    measured_on = sorted({row["latency_machine"] for row in rows if row["latency_ms"] is not None})
    label = f"latency, ms a photo ({'; '.join(measured_on)})" if measured_on else "latency"
    with new_folder(args.output, marker="comparison.json") as folder:
        text = "\n".join(
            [markdown_table(table), "", *notes, "", "![mask AP50 against latency](comparison.png)", ""]
        )
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        content = {"split": args.split, "rows": rows}
        (folder / "comparison.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8"
        )
        draw_comparison(
            rows, f"Accuracy against latency, {args.split} split", label, folder / "comparison.png"
        )
    print(tabulate(table, headers="firstrow", disable_numparse=True))
    print(args.output / "comparison.md")
    return 0


def row_of(path: Path, split: str, bench: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is known of one run: from its evaluation's report, else from ``run.json`` alone.

    Raises:
        UserError: ``path`` is neither a run nor a report.
    """
    report = _read_json(path / "report.json") or _read_json(path / "evaluation" / split / "report.json")
    if report and report.get("data", {}).get("split") != split:
        raise UserError(
            f"{path} is a report of the {report.get('data', {}).get('split')} split: name one of {split}"
        )
    record = (report or {}).get("training") or _read_json(path / "run.json") or {}
    backbone = (report or record).get("backbone")
    if not backbone:
        raise UserError(f"{path} is no run and no report: name folders that `train` or `evaluate` made")
    row: dict[str, Any] = {
        "name": (report or {}).get("name") or path.resolve().name,
        "backbone": backbone,
        "data": (report or {}).get("data", {}).get("name"),
        "evaluated": bool(report),
        "segm": (report or {}).get("segm"),
        "bbox": (report or {}).get("bbox"),
        "init": file_name((record.get("init") or {}).get("weights") or "") or None,
        "iterations": record.get("iterations"),
        "seconds": record.get("seconds"),
        "training_machine": record.get("machine"),
        "weights_sha256": (report or {}).get("weights_sha256"),
        "latency_ms": None,
        "latency_machine": None,
    }
    if bench is not None:
        row["latency_ms"] = bench["latency_ms"].get(row["name"], bench["latency_ms"].get(backbone))
        row["latency_machine"] = bench["machine"]
    elif report and report.get("latency_ms"):
        row["latency_ms"] = report["latency_ms"]["median"]
        row["latency_machine"] = f"{report['machine']}, {report['latency_ms']['precision']}"
    return row


def read_bench(paths: Sequence[Path]) -> dict[str, Any]:
    """The medians of what `make bench` measured, for each model with the engine and precision that were fastest there.

    Args:
        paths: reports; of a model that is in several, the last counts.

    Returns:
        ``{"machine": str, "latency_ms": {backbone or name of a run: median}}``; int8 is left out, since it is not what
        an archive serves unless that is asked for.

    Raises:
        UserError: not the benchmark's file.
    """
    latencies: dict[str, float] = {}
    machines: dict[str, None] = {}
    for path in paths:
        bench = _read_json(path)
        if bench is None:
            raise UserError(
                f"there is no benchmark at {path}: measure one (`make bench`), or leave --bench out"
            )
        medians: dict[str, float] = {}
        try:
            for row in bench["rows"]:
                if row["contestant"].startswith("ours ") and "int8" not in row["contestant"]:
                    name, median = row["backbone"], float(row["median_ms"])
                    medians[name] = min(median, medians.get(name, median))
            machine = bench["machine"]
            where = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
            machines[f"{where}, short side {bench['short_side']}"] = None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is not what `make bench` wrote ({error!r}): give that file") from None
        latencies |= medians
    return {"machine": "; ".join(machines), "latency_ms": latencies}


def table_of(rows: list[dict[str, Any]], split: str) -> list[list[str]]:
    """The table as text, head first; the original's figures on the balloon photos come last."""
    from finetune.evaluation.report_files import number, origin

    columns = [(kind, metric) for kind in ("segm", "bbox") for metric in ("AP", "AP50", "AP75")]
    names = {"segm": "mask", "bbox": "box"}
    table = [
        ["run", "backbone"]
        + [f"{names[kind]} {metric}" for kind, metric in columns]
        + ["ms a photo", "from", "steps", "training"]
    ]
    for row in rows:
        figures = [
            number(row[kind][metric], row[kind].get("intervals", {}).get(metric))
            if row[kind]
            else NOT_MEASURED
            for kind, metric in columns
        ]
        minutes = (
            None if row["seconds"] is None else f"{row['seconds'] / 60:.0f} min, {row['training_machine']}"
        )
        table.append(
            [
                row["name"],
                row["backbone"],
                *figures,
                NOT_MEASURED if row["latency_ms"] is None else f"{row['latency_ms']:.0f}",
                origin(row["init"]),
                str(row["iterations"] or "unknown"),
                minutes or "unknown",
            ]
        )
    on_balloons = [row for row in rows if split == "test" and row["data"] == "balloon"]
    for backbone in dict.fromkeys(row["backbone"] for row in on_balloons):
        segm, bbox, latency = ORIGINAL[backbone]
        figures = [f"{segm[0]}", f"{segm[1]}", "–", f"{bbox[0]}", f"{bbox[1]}", "–"]
        table.append(["the original", backbone, *figures, f"{latency} (unnamed GPU)", "COCO", "–", "–"])
    return table


def notes_of(rows: list[dict[str, Any]], split: str, bench: dict[str, Any] | None) -> list[str]:
    """What the table's numbers mean and where they were measured."""
    machines = sorted({row["latency_machine"] for row in rows if row["latency_ms"] is not None})
    source = "the benchmark, the whole predictor" if bench else "`evaluate`, the network alone"
    return [
        f"Average precision in percent on the {split} split; in brackets 95 % of 1000 resamplings of photos.",
        f"Latency: median of {source}, one photo at a time, on {'; '.join(machines) or 'no machine yet'}.",
    ]


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): make it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not what `train` or `evaluate` write: make it again")
    return content
