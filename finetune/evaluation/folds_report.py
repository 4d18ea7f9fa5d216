"""The report on a cross-validation: what K models found in the photos that they had not seen, measured together."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune.checkpoints.run import Run
from finetune.data.dataset import load_split, read_card
from finetune.evaluation.coco_eval import evaluate_results, ground_truth, match
from finetune.evaluation.operating_point import OperatingPoint, read_point
from finetune.evaluation.photo_scores import image_scores, totals
from finetune.evaluation.plots import draw_precision_recall
from finetune.evaluation.report_text import figure, markdown_table, number, origin, report_rows
from finetune.files import new_folder, read_json, write_json
from finetune.training.machine import describe_machine

Record = dict[str, Any]


def report_on_folds(run: Path, data: Path, folds: int) -> tuple[Record, Path]:
    """Measure the photos of all folds together, and write ``RUN/evaluation/folds``.

    Args:
        run: the folder of the cross-validation, whose folds are finished.
        data: its data set.

    Returns:
        The report, as in ``report.json``, and its folder.
    """
    whole, card = Run(run), read_card(data)
    report: Record = {
        "name": whole.name,
        "backbone": whole.backbone,
        "data": {"name": card.get("name"), "split": "folds", "classes": card["classes"]},
    }
    figures, curves = _measure([run / f"fold{n + 1}" for n in range(folds)], card["classes"])
    report |= figures
    report["expectation"] = _expectation(report, len(load_split(data, "train")))
    title = f"{whole.name}: {folds} folds of the train and val photos of {card.get('name')}"
    config, device = whole.recorded_config, whole.config.MODEL.DEVICE
    text = [
        f"# {title}",
        markdown_table(report_rows(report)),
        f"Average precision in percent as COCO defines it, over {report['images']} photos with {report['objects']} "
        "objects, each tested once, by a model that has seen neither the photo nor one of its group; in brackets, "
        f"95 % of 1000 resamplings of the {report['groups']} groups.",
        report["expectation"],
        f"The folds alone, mask AP: {', '.join(map(number, report['folds']['segm_AP']))}. With few photos each, they "
        "differ by chance.",
        f"Each model: from {origin(config['FINETUNE']['INIT'])} weights, {config['SOLVER']['MAX_ITER']} steps at most, "
        f"seed {config['SEED']}; tested at a short side of {config['INPUT']['MIN_SIZE_TEST']} pixels, in float32, on "
        f"{describe_machine(device)}.",
        "![precision and recall](pr_curve.png)",
    ]
    target = run / "evaluation" / "folds"
    with new_folder(target) as folder:
        draw_precision_recall(curves, title, folder / "pr_curve.png")
        write_json(folder / "report.json", report)
        (folder / "report.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return report, target


def _measure(folds: list[Path], classes: list[str]) -> tuple[Record, dict[str, dict[str, np.ndarray]]]:
    """The figures of a report, and its curves as ``evaluate_results`` returns them."""
    photos, results, shown = list[Record](), list[Record](), list[Record]()
    alone, learned = list[float | None](), list[int]()
    for n, fold in enumerate(folds):
        tested = load_split(fold / "data", "test")
        found = read_json(fold / "results.json", cure="delete it, and continue with --resume")
        point = read_point(Run(fold)) or OperatingPoint()
        counts = read_card(fold / "data")["splits"]
        first = n * sum(counts.values())  # each data set numbers its photos from 1
        for pool, items in (photos, tested), (results, found), (shown, point.shown(found, classes)):
            pool += [item | {"image_id": first + item["image_id"]} for item in items]
        alone.append(evaluate_results(tested, found, classes, resamples=0)[0]["segm"]["AP"])
        learned.append(counts["train"])
    groups = np.array([int(photo["group"]) for photo in photos])
    figures, curves = evaluate_results(photos, results, classes, groups=groups)
    evaluator = match(ground_truth(photos, classes), shown, "segm")[1]
    return figures | {
        "groups": len(np.unique(groups)),
        "at_operating_point": totals(image_scores(evaluator, [photo["image_id"] for photo in photos])),
        "folds": {"segm_AP": alone, "photos_learned_from": learned},
    }, curves


def _expectation(report: Record, photos: int) -> str:
    """What the figures say about a model that learns from ``photos`` photos of the data set."""
    at, learned = report["at_operating_point"], report["folds"]["photos_learned_from"]
    return (
        f"Expect a mask AP of {figure(report['segm'], 'AP')} on new photos of this kind from a model that is trained "
        f"in the same way on the data set's own train split. It learns from {photos} photos, these {len(learned)} "
        f"models from {min(learned)} to {max(learned)}. At the operating points that they chose by their val folds, "
        f"{at['found']} of {at['found'] + at['missed']} objects were found and {at['false']} detections were false."
    )
