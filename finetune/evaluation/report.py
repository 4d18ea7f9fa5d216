"""The report on one evaluation: figures as JSON and Markdown, plots, and the worst photos drawn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO

from finetune.checkpoints.run import Run
from finetune.data.dataset import class_names, load_split, read_card
from finetune.data.importing import negative_photos
from finetune.data.photos import open_photo, upright_size
from finetune.errors import UserError
from finetune.evaluation.coco_eval import evaluate_results, ground_truth, match
from finetune.evaluation.inference import predict
from finetune.evaluation.operating_point import (
    BEST_F1,
    SCORES,
    Counts,
    OperatingPoint,
    Rule,
    choose,
    count,
    read_point,
    save_point,
    uncertainty,
)  # fmt: skip
from finetune.evaluation.photo_scores import ImageScore, confusion, false_alarms, image_scores, totals
from finetune.evaluation.plots import draw_curves, draw_truth_and_prediction
from finetune.evaluation.report_text import markdown
from finetune.files import new_folder, write_json
from finetune.training.machine import describe_machine, package_versions

Record = dict[str, Any]


def evaluate_run(
    path: Path,
    data: Path,
    *,
    split: str = "test",
    output: Path | None = None,
    negatives: Path | None = None,
    rule: Rule = BEST_F1,
    worst: int = 6,
    overrides: Sequence[str] = (),
) -> tuple[Record, Path]:
    """Evaluate a trained model on a split and write the report's folder.

    Args:
        path: a run folder, or a checkpoint with its config.
        output: the folder to write; default: ``RUN/evaluation/SPLIT``.
        negatives: a folder of photos with nothing to find.
        rule: how to choose the operating point, on val.
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
    if run.classes is not None:
        run.check_classes(data, classes)
    empty = negative_records(negatives) if negatives else []
    target = output or (path if path.is_dir() else Path("runs") / run.name) / "evaluation" / split
    check_replaceable(target, "report.json")
    with new_folder(target) as folder:
        model = run.load_model()
        results, seconds = predict(model, records, config, warm_up=True, progress=True)
        truth = ground_truth(records, classes)
        if split == "val":
            point = choose(truth, results, classes, rule)
            point = replace(point, uncertainty=uncertainty(point.shown(results, classes)))
        else:
            point = read_point(run) or OperatingPoint()
        data_set = {"name": read_card(data).get("name"), "split": split, "classes": classes}
        report: Record = {"name": run.name, "backbone": run.backbone, "data": data_set}
        report |= _circumstances(run, seconds)
        report |= _measure(report, records, truth, results, point, worst, folder)
        if negatives:
            found, _ = predict(model, empty, config, progress=True)
            alarms = false_alarms(point.shown(found, classes), [record["image_id"] for record in empty])
            report["false_alarms"][f"the photos of {negatives.resolve().name}"] = alarms
        write_json(folder / "report.json", report)
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    if split == "val":
        save_point(run, point)
    return report, target


def _measure(
    report: Record,
    records: list[Record],
    truth: COCO,
    results: list[Record],
    point: OperatingPoint,
    worst: int,
    folder: Path,
) -> Record:
    """The figures of a report; its plots and the worst photos are drawn into ``folder``."""
    classes = report["data"]["classes"]
    figures, precision = evaluate_results(records, results, classes)
    shown = point.shown(results, classes)
    scores = image_scores(match(truth, shown, "segm")[1], [record["image_id"] for record in records])
    empty = [record["image_id"] for record in records if not record["annotations"]]
    matches = match(truth, point.kept(results), "segm")[0][""]  # at all scores
    counts = count(matches)
    title = f"{report['name']} on the {report['data']['split']} split of {report['data']['name']}"
    draw_curves(precision, matches, point.score_threshold, title, folder / "curves.png")
    return figures | {
        "operating_point": point.to_json(),
        "at_operating_point": totals(scores),
        "false_alarms": {"photos without objects": false_alarms(shown, empty)},
        "thresholds": _thresholds(counts, point.score_threshold),
        "confusion": confusion(truth, shown, scores).tolist(),
        "worst": _draw_worst(folder, records, shown, scores, classes, worst),
    }


def negative_records(folder: Path) -> list[Record]:
    """Standard dicts without annotations of the photos in a folder and its subfolders."""
    records = []
    for i, photo in enumerate(negative_photos(folder).values()):
        with open_photo(photo.path, decode=False) as image:
            width, height = upright_size(image)
        record = {"file_name": str(photo.path), "image_id": i, "height": height, "width": width}
        records.append(record | {"annotations": []})
    return records


def _thresholds(counts: Counts, chosen: float) -> list[Record]:
    """Rows of the table threshold → found, false, precision, recall (percent; None for 0 of 0)."""
    wanted = {0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, chosen}
    columns = np.array([SCORES, counts.found, counts.false, 100 * counts.precision, 100 * counts.recall])
    keys = ("score", "found", "false", "precision", "recall")
    rows = [
        [None if np.isnan(x) else round(x, 3) for x in row] for row in columns.T.tolist() if row[0] in wanted
    ]
    return [dict(zip(keys, row, strict=True)) for row in rows]


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
        **run.measured_with,
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
        score, photo = scores[i], Path(records[i]["file_name"])
        name = f"worst_{len(entries) + 1:02}_{photo.stem}.jpg"
        draw_truth_and_prediction(records[i], int(first_ids[i]), results, score, classes, folder / name)
        shares = {key: round(100 * getattr(score, key), 1) for key in ("quality", "f1", "mean_iou")}
        counts = {key: getattr(score, key) for key in ("objects", "missed", "false")}
        entries.append({"photo": photo.name, "drawn": name, **shares, **counts})
    return entries
