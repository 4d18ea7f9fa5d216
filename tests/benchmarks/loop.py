"""One turn of the loop with real photos: predict, correct, merge, train on, and the AP before and after.

    python -m tests.benchmarks.loop --data data/balloon

A first model is trained on a few photos. It predicts others as labelme files, in which the ground truth then takes the
place of a person's corrections; they are imported and merged, and the model is trained further. A control is trained as
long without them: the difference to it is what the corrections are worth. Only the commands that a user types are used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from finetune.data.dataset import Photo, class_names, read_photos, write_dataset
from finetune.files import read_json, write_json
from tests.benchmarks.measuring import argument_parser, machine, maskrcnn, save, table

KEYS = (
    "MODEL.FPN.OUT_CHANNELS 128 MODEL.ROI_MASK_HEAD.CONV_DIM 128 MODEL.BACKBONE.FREEZE_AT 2 "
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 128 SOLVER.IMS_PER_BATCH 4 FINETUNE.AUGMENT.CROP_SIZE 448 "
    "FINETUNE.AUGMENT.SCALE_MAX 2.4 TEST.EVAL_PERIOD 50"
).split()


def main() -> int:
    parser = argument_parser(__doc__, "reports/loop")
    parser.add_argument("--data", type=Path, required=True, help="a data set with train, val and test")
    parser.add_argument("--weights", default="imagenet", help="the first model's (default: %(default)s)")
    parser.add_argument("--first", type=int, default=12, help="photos of its training (default: %(default)s)")
    parser.add_argument("--first-steps", type=int, default=300, help="(default: %(default)s)")
    parser.add_argument("--photos", type=int, default=20, help="photos to correct (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=100, help="of the further training (default: %(default)s)"
    )
    args = parser.parse_args()
    folder, where = args.output, machine()
    if folder.exists():
        parser.error(f"{folder} exists: remove it, or choose another --output")
    photos = read_photos(args.data, "train")
    if len(photos) < args.first + args.photos:
        parser.error(f"{args.data} has {len(photos)} photos to train on, not {args.first} + {args.photos}")
    old, new = folder / "old", folder / "new"
    others = {split: read_photos(args.data, split) for split in ("val", "test")}
    write(old, args.data, {"train": photos[: args.first], **others})
    write(new, args.data, {"train": photos[args.first : args.first + args.photos]})

    first = train(folder / "first", old, args.weights, args.first_steps)
    rows = [{"model": f"first: {args.first} photos, {args.first_steps} steps", **figures(first, old)}]
    maskrcnn("evaluate", first, "--data", new, "--split", "train", "--output", folder / "drawn")
    drawn = read_json(folder / "drawn/report.json")["at_operating_point"]
    corrected = correct(first, new, folder)
    maskrcnn("data", "import", corrected, "--root", folder / "corrected", "--val", 0, "--test", 0)
    maskrcnn("data", "merge", old, folder / "corrected", "--root", folder / "merged")
    for what, data in ((f"{args.photos} corrected photos", folder / "merged"), ("no corrections", old)):
        run = train(folder / what.replace(" ", "_"), data, first, args.steps)
        rows.append({"model": f"{args.steps} steps more, {what}", **figures(run, data)})

    title = (
        f"mobilenetv2_fpn from {Path(args.weights).name}; {where['gpu'] or where['processor']}. On the "
        f"{args.photos} photos, the first model drew {drawn['found']} of {drawn['found'] + drawn['missed']} objects, "
        f"and {drawn['false']} false ones."
    )
    text = f"{title}\n\n{table(rows)}"
    save(folder, "loop", {"machine": where, "drawn": drawn, "rows": rows}, text)
    print(f"{text}\n\n{folder}")
    return 0


def write(root: Path, data: Path, splits: dict[str, list[Photo]]) -> None:
    """A data set of some of the photos of another one."""
    write_dataset(root, name=root.name, classes=class_names(data), source=str(data), splits=splits)


def train(run: Path, data: Path, weights: str | Path, steps: int) -> Path:
    """Train a model, and choose its operating point."""
    if Path(weights).is_dir():
        weights = Path(weights) / "model_best.safetensors"
    print(f"{run.name}: {steps} steps", file=sys.stderr, flush=True)
    options = ("--data", data, "--weights", weights, "--output", run)
    maskrcnn("train", "mobilenetv2_fpn", *options, *KEYS, "SOLVER.MAX_ITER", steps)
    maskrcnn("evaluate", run, "--data", data, "--split", "val")
    return run


def figures(run: Path, data: Path) -> dict[str, Any]:
    """A row of the table: accuracy on the test photos."""
    maskrcnn("evaluate", run, "--data", data, "--split", "test")
    report = read_json(run / "evaluation/test/report.json")
    masks, shown = report["segm"], report["at_operating_point"]
    row = {
        "mask AP": masks["AP"],
        "AP50": masks["AP50"],
        "at score": report["operating_point"]["score_threshold"],
    }
    return row | {name: shown[name] for name in ("found", "missed", "false")}


def correct(run: Path, data: Path, folder: Path) -> Path:
    """Predict the photos of a data set as labelme files, and put its ground truth into them as a person would."""
    maskrcnn("predict", run, data / "images", "--output", folder / "predicted", "--format", "labelme")
    maskrcnn("data", "export", data, "--format", "labelme", "--output", folder / "truth")
    predicted = folder / "predicted/labelme"
    for path in sorted(predicted.glob("train/*.json")):
        truth = read_json(folder / "truth/train" / path.name)
        write_json(path, read_json(path) | {"shapes": truth["shapes"]})
    return predicted


if __name__ == "__main__":
    sys.exit(main())
