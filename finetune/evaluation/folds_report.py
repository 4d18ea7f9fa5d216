"""The report on a cross-validation: what K models found in the photos that they had not seen, measured together."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune.checkpoints.run import Run
from finetune.data.dataset import load_split, read_card
from finetune.evaluation.coco_eval import evaluate_results, ground_truth, match
from finetune.evaluation.operating_point import OperatingPoint, read_point
from finetune.evaluation.photo_scores import image_scores, totals
from finetune.evaluation.plots import draw_curves
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
    name, classes, target = card.get("name"), card["classes"], run / "evaluation" / "folds"
    photos, results, shown = list[Record](), list[Record](), list[Record]()
    alone, learned = list[float | None](), list[int]()
    for n in range(folds):
        fold = run / f"fold{n + 1}"
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
    figures, precision = evaluate_results(photos, results, classes, groups=groups)
    truth = ground_truth(photos, classes)
    scores = image_scores(match(truth, shown, "segm")[1], [photo["image_id"] for photo in photos])
    report: Record = {
        "name": whole.name,
        "backbone": whole.backbone,
        "data": {"name": name, "split": "folds", "classes": classes},
        **figures,
        "groups": len(np.unique(groups)),
        "at_operating_point": totals(scores),
        "folds": {"segm_AP": alone, "photos_learned_from": learned},
    }
    report["expectation"] = _expectation(report, len(load_split(data, "train")))
    title = f"{whole.name}: {folds} folds of the train and val photos of {name}"
    with new_folder(target) as folder:
        draw_curves(precision, match(truth, results, "segm")[0][""], None, title, folder / "curves.png")
        write_json(folder / "report.json", report)
        text = [f"# {title}", markdown_table(report_rows(report)), *_words(report, whole)]
        (folder / "report.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return report, target


def _words(report: Record, whole: Run) -> list[str]:
    """The paragraphs of ``report.md`` below its table."""
    config = whole.recorded_config
    return [
        f"Average precision in percent as COCO defines it, over {report['images']} photos with {report['objects']} "
        "objects, each tested once, by a model that has seen neither the photo nor one of its group; in brackets, "
        f"95 % of 1000 resamplings of the {report['groups']} groups.",
        report["expectation"],
        f"The folds alone, mask AP: {', '.join(map(number, report['folds']['segm_AP']))}. With few photos each, they "
        "differ by chance.",
        f"Each model: from {origin(config['FINETUNE']['INIT'])} weights, {config['SOLVER']['MAX_ITER']} steps at most, "
        f"seed {config['SEED']}; tested at a short side of {config['INPUT']['MIN_SIZE_TEST']} pixels, in float32, on "
        f"{describe_machine(whole.config.MODEL.DEVICE)}.",
        "![precision against recall, and against the score threshold](curves.png)",
    ]


def _expectation(report: Record, photos: int) -> str:
    """What the figures say about a model that learns from ``photos`` photos of the data set."""
    at, learned = report["at_operating_point"], report["folds"]["photos_learned_from"]
    return (
        f"Expect a mask AP of {figure(report['segm'], 'AP')} on new photos of this kind from a model that is trained "
        f"in the same way on the data set's own train split. It learns from {photos} photos, these {len(learned)} "
        f"models from {min(learned)} to {max(learned)}. At the operating points that they chose by their val folds, "
        f"{at['found']} of {at['found'] + at['missed']} objects were found and {at['false']} detections were false."
    )
