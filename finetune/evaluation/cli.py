"""``maskrcnn evaluate``, ``maskrcnn compare`` and ``maskrcnn tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
SHARE, POINTS = click.FloatRange(0, 1, min_open=True), click.FloatRange(min=0)
GOAL = click.Choice(["latency", "throughput"])
SPLIT = click.Choice(["train", "val", "test"])
SPLIT_OR_FOLDS = click.Choice([*SPLIT.choices, "folds"])
COMPARISON = Path("runs/comparison")


@click.command()
@click.argument("path", type=PATH, metavar="RUN|CHECKPOINT")
@click.option("--data", type=PATH, required=True, metavar="DIR", help="A data set made by `maskrcnn data …`.")
@click.option("--split", type=SPLIT, default="test", show_default=True, help="The photos to evaluate on.")
@click.option("--output", type=PATH, metavar="DIR", help="[default: RUN/evaluation/SPLIT]")
@click.option("--negatives", type=PATH, metavar="DIR", help="Photos without objects: count false alarms.")
@click.option("--min-precision", type=SHARE, metavar="P", help="On val: find most at this precision (0..1).")
@click.option("--min-recall", type=SHARE, metavar="R", help="On val: least false at this recall (0..1).")
@click.option("--worst", type=click.IntRange(min=0), default=6, help="Worst photos to draw.  [default: 6]")
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def evaluate(min_precision: float | None, min_recall: float | None, **request: Any) -> None:
    """Measure a trained model on one split.

    Reports AP of masks and boxes with 95 % intervals, what is found and what is false at the operating point, and the
    time per photo, as report.md, report.json, plots and pictures of the worst photos. KEY VALUE pairs override the
    config.

    With --split val it also chooses the operating point: the score from which on detections are shown. The other
    splits are measured at it, and archives show detections by it.

    \b
    Examples:
      maskrcnn evaluate runs/mobilenetv2_fpn --data data/balloon --split val
      maskrcnn evaluate runs/mobilenetv2_fpn --data data/balloon --negatives photos/everyday
      maskrcnn evaluate model_store/mobilenetv2_fpn_starter.safetensors \\
          --data data/balloon --split val INPUT.MIN_SIZE_TEST 480
    """
    from tabulate import tabulate

    from finetune.evaluation.operating_point import BEST_F1, Rule
    from finetune.evaluation.report import evaluate_run
    from finetune.evaluation.report_text import report_rows, shown_sentences

    rule = Rule(min_precision, min_recall)
    if rule != BEST_F1 and request["split"] != "val":
        raise click.UsageError("--min-precision and --min-recall choose on the val split: add --split val")
    if min_precision and min_recall:
        raise click.UsageError("--min-precision and --min-recall exclude each other: give one")
    report, folder = evaluate_run(**request, rule=rule)
    click.echo(tabulate(report_rows(report, ["AP"]), headers="firstrow", disable_numparse=True))
    click.echo("\n".join(shown_sentences(report)))
    click.echo(folder / "report.md")


@click.command()
@click.argument("runs", type=PATH, nargs=-1, required=True, metavar="RUN...")
@click.option("--split", type=SPLIT_OR_FOLDS, default="test", help="The reports.  [default: test]")
@click.option("--output", type=PATH, default=COMPARISON, metavar="DIR", help="[default: runs/comparison]")
def compare(runs: tuple[Path, ...], split: str, output: Path) -> None:
    """Put evaluated runs into one table and one picture.

    RUN is a run folder, or a folder that `evaluate --output` wrote. Writes comparison.md, comparison.json and
    comparison.png (mask AP50 against latency).

    \b
    Examples:
      maskrcnn compare runs/resnet50_fpn runs/mobilenetv2_fpn runs/vovnet19_fpn
      maskrcnn compare runs/* --split val --output runs/comparison_val
    """
    from tabulate import tabulate

    from finetune.evaluation.compare import compare_runs, short_table_of

    reports = compare_runs(runs, output, split=split)
    click.echo(tabulate(short_table_of(reports), headers="firstrow", disable_numparse=True))
    click.echo(output / "comparison.md")


@click.command()
@click.argument("path", type=PATH, metavar="RUN|CHECKPOINT")
@click.option("--data", type=PATH, required=True, metavar="DIR", help="Measure on its val split.")
@click.option("--tolerance", type=POINTS, default=0.5, help="Mask AP that may be lost.  [default: 0.5]")
@click.option("--for", "goal", type=GOAL, default="latency", help="[default: latency]")
def tune(path: Path, data: Path, tolerance: float, goal: str) -> None:
    """Find the fastest setting for this machine that keeps the AP.

    Measures input size, proposals and precision, and with --for throughput the number of workers, by the code that
    serves. The fastest setting that loses no more than --tolerance, and at most one found object, goes to tuned.json in
    the run folder or beside the checkpoint; `maskrcnn export` applies it. A stopped tuning continues where it was;
    remove tuned.json to measure anew.

    \b
    Examples:
      maskrcnn tune runs/mobilenetv2_fpn --data data/balloon
      maskrcnn tune runs/mobilenetv2_fpn --data data/balloon --for throughput --tolerance 1
    """
    from tabulate import tabulate

    from finetune.evaluation import tune as tuning

    table, file = tuning.tune(path, data, tolerance=tolerance, goal=goal)
    click.echo(tabulate(table, headers="firstrow", disable_numparse=True))
    click.echo(file)
