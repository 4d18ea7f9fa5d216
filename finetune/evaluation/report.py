"""The report on one evaluation: figures as JSON and Markdown, the PR curve, and the worst photos drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from finetune.checkpoints.run import Run
from finetune.data.dataset import class_names, load_split, read_card
from finetune.errors import UserError
from finetune.evaluation.coco_eval import KINDS, METRICS, ImageScore, evaluate_results
from finetune.evaluation.inference import predict
from finetune.evaluation.plots import KIND_NAMES, draw_precision_recall, draw_truth_and_prediction
from finetune.files import new_folder, sha256_of, write_json
from finetune.training.machine import describe_machine, package_versions

Record = dict[str, Any]


def evaluate_run(
    path: Path,
    data: Path,
    *,
    split: str = "test",
    output: Path | None = None,
    score: float = 0.5,
    worst: int = 6,
    overrides: Sequence[str] = (),
) -> tuple[Record, Path]:
    """Evaluate a trained model on a split and write the report's folder.

    Args:
        path: a run folder, or a checkpoint with its config.
        output: the folder to write; default: ``RUN/evaluation/SPLIT``.
        score: detections below it are not shown to users.
        worst: how many photos to draw, worst first.
        overrides: ``KEY VALUE …`` for the config.

    Returns:
        The report, as in ``report.json``, and its folder.

    Raises:
        UserError: the model cannot be opened, its classes are not the data's, or the folder cannot be written.
    """
    classes, records = class_names(data), load_split(data, split)
    run = Run.open(path, overrides)
    config = run.config  # read before the folder is made: an override may be wrong
    if run.classes is not None and run.classes != classes:
        raise UserError(
            f"{path} was trained on the classes {', '.join(run.classes)}, but {data} has {', '.join(classes)}: "
            "evaluate it on data with the same classes"
        )
    target = output or (path if path.is_dir() else Path("runs") / run.name) / "evaluation" / split
    check_replaceable(target, "report.json")
    with new_folder(target) as folder:
        results, seconds = predict(run.load_model(), records, config, warm_up=True, progress=True)
        figures, scores, curves = evaluate_results(records, results, classes, score=score)
        data_name = read_card(data).get("name")
        report: Record = {
            "name": run.name,
            "backbone": run.backbone,
            "data": {"name": data_name, "split": split, "classes": classes},
            **figures,
            **_circumstances(run, seconds),
        }
        draw_precision_recall(
            curves, f"{run.name} on the {split} split of {data_name}", folder / "pr_curve.png"
        )
        report["worst"] = _draw_worst(folder, records, results, scores, classes, worst)
        write_json(folder / "report.json", report)
        (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    return report, target


def check_replaceable(folder: Path, marker: str) -> None:
    """Refuse to replace a folder that this command has not written.

    Args:
        marker: the file that tells a folder written earlier.

    Raises:
        UserError: ``folder`` holds something else.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file()):
        raise UserError(f"{folder} exists and is not an earlier report: choose another --output")


def _circumstances(run: Run, seconds: Sequence[float]) -> Record:
    """How and where the model was measured, and how it was trained."""
    device = run.config.MODEL.DEVICE
    return {
        "latency_ms": {
            "median": round(1000 * float(np.median(seconds)), 1),
            "what": "the network alone, one photo at a time, after warm-up",
            "device": device,
            "precision": "float32",
            "threads": torch.get_num_threads(),
        },
        "input": {"min_size": run.config.INPUT.MIN_SIZE_TEST, "max_size": run.config.INPUT.MAX_SIZE_TEST},
        "proposals": run.config.MODEL.RPN.POST_NMS_TOPK_TEST,
        "overrides": run.overrides,
        "weights_sha256": sha256_of(run.weights),
        "machine": describe_machine(device),
        "versions": package_versions(),
        "training": run.record,
    }


def _draw_worst(
    folder: Path,
    records: list[Record],
    results: list[Record],
    scores: list[ImageScore],
    classes: list[str],
    worst: int,
) -> list[Record]:
    """Draw the worst photos into ``folder``; return their figures, worst first."""
    # ground_truth numbers the annotations from 1, photo by photo
    first_ids = 1 + np.cumsum([0] + [len(record["annotations"]) for record in records])
    entries: list[Record] = []
    for i in sorted(range(len(records)), key=lambda i: scores[i].quality)[:worst]:
        score = scores[i]
        photo = Path(records[i]["file_name"])
        name = f"worst_{len(entries) + 1:02}_{photo.stem}.jpg"
        page = draw_truth_and_prediction(records[i], int(first_ids[i]), results, score, classes)
        page.save(folder / name, quality=88)
        entries.append(
            {
                "photo": photo.name,
                "drawn": name,
                "quality": round(100 * score.quality, 1),
                "f1": round(100 * score.f1, 1),
                "mean_iou": round(100 * score.mean_iou, 1),
                "objects": score.objects,
                "missed": score.missed,
                "false": score.false,
            }
        )
    return entries


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


def _markdown(report: Record) -> str:
    at, latency, data, training = report["at_score"], report["latency_ms"], report["data"], report["training"]
    lines = [
        f"# {report['name']}: {data['split']} split of {data['name']}",
        "",
        markdown_table(report_rows(report)),
        "",
        f"Average precision in percent as COCO defines it, over {report['images']} photos with"
        f" {report['objects']} objects; in brackets, 95 % of 1000 resamplings of the photos."
        " s, m, l: objects below 32², below 96², above (pixels); n/a: there are none.",
        "",
        f"- At score ≥ {at['score']:g}: **{at['found']} of {at['found'] + at['missed']}** objects found,"
        f" {at['false']} false; precision {number(at['precision'])}, recall {number(at['recall'])},"
        f" mean mask IoU {number(at['mean_iou'])}.",
        f"- Time: {latency['median']:g} ms per photo (median; {latency['what']}; {latency['device']},"
        f" {latency['precision']}, {latency['threads']} threads) on {report['machine']}.",
        f"- Input: short side {report['input']['min_size']}, long side at most {report['input']['max_size']}"
        f" pixels; {report['proposals']} proposals.",
    ]
    if training:
        init = training.get("init", {})
        lines.append(
            f"- Training: {report['backbone']} from {origin(init.get('weights'))} weights,"
            f" {training.get('iterations', '?')} steps, seed {training.get('seed', '?')},"
            f" {training.get('seconds', 0) / 60:.0f} min on {training.get('machine', 'an unknown machine')}."
        )
    lines += [
        f"- Weights: SHA-256 `{report['weights_sha256']}`.",
        "",
        "![precision and recall](pr_curve.png)",
    ]
    if report["worst"]:
        lines += [
            "",
            "## The worst photos",
            "",
            "By panoptic quality: F1 × mean mask IoU of the found objects."
            " Blue outlines are right; striped masks are missed objects or false detections.",
        ]
    for entry in report["worst"]:
        lines += [
            "",
            f"**{entry['photo']}**: quality {entry['quality']:.0f}, {entry['missed']} of {entry['objects']}"
            f" missed, {entry['false']} false",
            "",
            f"![truth and prediction]({entry['drawn']})",
        ]
    return "\n".join([*lines, ""])
