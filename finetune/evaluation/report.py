"""``python -m finetune evaluate``: how good a trained model is on a split, as numbers and as pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.checkpoints.run import Run
    from finetune.evaluation.matching import ImageScore

DESCRIPTION = """\
Measure a trained model on one split: AP of masks and boxes with a 95 % interval, what it finds at the score
that users see, the time per photo. Writes report.md, report.json, pr_curve.png and the worst photos drawn,
truth beside prediction.

  python -m finetune evaluate runs/mobilenetv2_fpn --data data/balloon --split test
  python -m finetune evaluate model_store/starter.safetensors --data data/balloon INPUT.MIN_SIZE_TEST 480
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``evaluate``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="AP, PR curve and worst photos of a trained model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", type=Path, metavar="RUN|CHECKPOINT", help="a run folder, or a checkpoint with its config"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="made by `finetune data …`")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where the report goes (default: RUN/evaluation/SPLIT)"
    )
    parser.add_argument(
        "--score", type=float, default=0.5, metavar="S", help="the score from which on users see a detection"
    )
    parser.add_argument(
        "--worst", type=int, default=6, metavar="N", help="how many photos to draw (default: 6)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="config keys, such as MODEL.DEVICE cpu"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the last line printed is the path of the report."""
    import numpy as np
    from tabulate import tabulate

    from finetune.checkpoints.run import Run
    from finetune.data.dataset import class_names, load_split, read_card
    from finetune.evaluation.coco_eval import evaluate_results
    from finetune.evaluation.inference import predict
    from finetune.evaluation.report_files import new_folder, report_rows, write_report
    from finetune.files import sha256_of
    from finetune.training.machine import describe_machine, package_versions

    if not 0 <= args.score <= 1:
        raise UserError(f"--score is a probability, not {args.score}: give a number from 0 to 1")
    classes, records = class_names(args.data), load_split(args.data, args.split)
    trained = Run.open(args.model, args.overrides)
    if trained.classes is not None and trained.classes != classes:
        raise UserError(
            f"{args.model} knows the classes {', '.join(trained.classes)}, but {args.data} has"
            f" {', '.join(classes)}: evaluate on data with the classes it was trained on"
        )
    output = args.output or _default_output(args.model, trained) / args.split
    with new_folder(output, marker="report.json") as folder:
        model = trained.load_model()
        results, seconds = predict(model, records, trained.config, warm_up=True, progress=True)
        figures, scores, curves = evaluate_results(records, results, classes, score=args.score)
        inputs = trained.config.INPUT
        report: dict[str, Any] = {
            "name": trained.name,
            "backbone": trained.backbone,
            "data": {"name": read_card(args.data).get("name"), "split": args.split, "classes": classes},
            **figures,
            "latency_ms": {
                "median": round(1000 * float(np.median(seconds)), 1),
                "what": "the network alone, one photo at a time, after warm-up",
                "device": str(model.device),
                "precision": "float32",
                "threads": _threads(),
            },
            "input": {"min_size": inputs.MIN_SIZE_TEST, "max_size": inputs.MAX_SIZE_TEST},
            "proposals": trained.config.MODEL.RPN.POST_NMS_TOPK_TEST,
            "overrides": args.overrides,
            "weights_sha256": sha256_of(trained.weights),
            "machine": describe_machine(model.device.type),
            "versions": package_versions(),
            "training": trained.record,
        }
        report["worst"] = _draw(folder, report, curves, records, results, scores, classes, args.worst)
        write_report(folder, report)
    print(tabulate(report_rows(report), headers="firstrow", disable_numparse=True))
    print(output / "report.md")
    return 0


def _default_output(path: Path, trained: "Run") -> Path:
    return (path if path.is_dir() else Path("runs") / trained.name) / "evaluation"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _draw(
    folder: Path,
    report: dict[str, Any],
    curves: dict[str, Any],
    records: list[dict[str, Any]],
    results: list[dict[str, Any]],
    scores: "list[ImageScore]",
    classes: list[str],
    worst: int,
) -> list[dict[str, Any]]:
    """Draw the PR curve and the worst photos into ``folder``; return the latter's figures, worst first."""
    from finetune.evaluation.plots import draw_precision_recall, draw_truth_and_prediction

    title = f"{report['name']} on the {report['data']['split']} split of {report['data']['name']}"
    draw_precision_recall(curves, title, folder / "pr_curve.png")
    first_ids, next_id = [], 1
    for record in records:
        first_ids.append(next_id)
        next_id += len(record["annotations"])
    entries: list[dict[str, Any]] = []
    for i in sorted(range(len(records)), key=lambda i: scores[i].quality)[:worst]:
        score = scores[i]
        photo = Path(records[i]["file_name"]).name
        name = f"worst_{len(entries) + 1:02}_{Path(photo).stem}.jpg"
        page = draw_truth_and_prediction(records[i], first_ids[i], results, score, classes)
        page.save(folder / name, quality=88)
        entries.append(
            {
                "photo": photo,
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
