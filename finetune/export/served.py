"""The AP of what is served, by the archive's own code on this machine; the 8-bit model, where that AP allows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.checkpoints.run import Run
from finetune.data.dataset import class_names, load_split
from finetune.errors import UserError
from finetune.export.processes import announce, run_tool
from finetune.files import read_json, write_json

if TYPE_CHECKING:
    from pycocotools.coco import COCO

Record = dict[str, Any]

CALIBRATION_PHOTOS = 32
"""Each costs about a second. They only show which range of values each layer must hold."""


def measure_served(run: Run, staged: Path, data: Path, *, max_loss: float, int8: bool) -> Record:
    """Compare the archive's mask AP with that of the trained model, on test or, without a test split, on val.

    Args:
        staged: the archive's folder; temporary files go beside it.
        max_loss: points of mask AP that may be lost.
        int8: add an 8-bit model, calibrated on train, if it loses no more and is faster here.

    Returns:
        What the archive's card says: ``split``, ``images``, ``precision``, ``engine``, ``device``; the AP of ``segm``
        and ``bbox``, and in ``training`` that of the trained model; ``segm_AP_loss``.

    Raises:
        UserError: the data set does not fit the run, more is lost than ``max_loss``, or a step failed.
    """
    from finetune.evaluation.coco_eval import KINDS, match, summarize
    from finetune.evaluation.inference import evaluate_model

    split = "test" if (data / "test.json").is_file() else "val"
    records, truth = load_truth(run, data, split)
    announce(f"measuring the trained model and the archive on the {len(records)} photos of {split}")
    training = evaluate_model(run.load_model(), records, class_names(data), run.config)
    trained_ap = training["segm"]["AP"]

    def measure() -> Record:
        answered = predict_staged(staged, records)
        results = answered.pop("results")
        figures = {kind: summarize(match(truth, results, kind)[0]) for kind in KINDS}
        return {**answered, **figures, "segm_AP_loss": round(trained_ap - figures["segm"]["AP"], 2)}

    served = measure()
    aps = f"{trained_ap:.1f} as trained, {served['segm']['AP']:.1f} as served in {served['precision']}"
    click.echo(f"mask AP on {split}: {aps}", err=True)
    if not served["segm_AP_loss"] <= max_loss:  # a limit of NaN allows nothing
        raise UserError(
            f"the archive loses {served['segm_AP_loss']:g} points of mask AP on {split} ({aps}), more than "
            f"--max-loss {max_loss:g}: try --fp32, or allow more"
        )
    if int8:
        served = try_int8(staged, served, load_split(data, "train"), measure, max_loss)
    return {"split": split, "images": len(records), **served, "training": training}


def try_int8(
    staged: Path,
    served: Record,
    records: Sequence[Record],
    measure: Callable[[], Record],
    max_loss: float,
) -> Record:
    """Add an 8-bit model to the archive if it is faster here and keeps the AP; else say why not.

    Returns:
        ``served``, which was measured before, or the same of the 8-bit model, which CPUs serve if it is there; then
        with the number of photos that calibrated it, and ``median_ms`` of a photo by precision.
    """
    try:
        if served["device"] != "cpu":
            raise UserError("this machine serves on its GPU (hide that with CUDA_VISIBLE_DEVICES=)")
        count, milliseconds = add_int8(staged, records, served["precision"])
        times = "a photo takes " + ", ".join(f"{ms:.0f} ms in {name}" for name, ms in milliseconds.items())
        # less would not be worth a larger archive and a slower start
        if milliseconds["int8"] > 0.9 * milliseconds[served["precision"]]:
            raise UserError(f"it does not save a tenth of the time here ({times})")
        int8 = measure()
        if not int8["segm_AP_loss"] <= max_loss:
            raise UserError(f"it loses {int8['segm_AP_loss']:g} points of mask AP, more than {max_loss:g}")
    except UserError as error:
        remove_int8(staged)
        click.echo(f"int8 is left out: {error.message}", err=True)
        return served
    click.echo(f"int8 becomes the CPU's default: {times}; mask AP {int8['segm']['AP']:.1f}", err=True)
    return int8 | {"calibration": {"split": "train", "images": count}, "median_ms": milliseconds}


def add_int8(staged: Path, records: Sequence[Record], precision: str) -> tuple[int, dict[str, float]]:
    """Add an 8-bit model; return how many of ``records`` calibrated it, and milliseconds of a photo by precision."""
    chosen = records[:: max(1, len(records) // CALIBRATION_PHOTOS)][:CALIBRATION_PHOTOS]
    announce(f"calibrating int8 on {len(chosen)} photos of train and trying it")
    photos, answer = write_photos(staged.parent / "photos.json", chosen), staged.parent / "times.json"
    # in a process of its own: OpenVINO has crashed on an 8-bit model
    run_tool(staged, "quantize.py", staged, photos, precision, answer, what="its calibration")
    return len(chosen), read_json(answer)


def remove_int8(staged: Path) -> None:
    """Remove the 8-bit model, if there is one."""
    for file in (staged / "openvino").glob("trunk_int8.*"):
        file.unlink()


def load_truth(run: Run, data: Path, split: str) -> tuple[list[Record], COCO]:
    """A split's photos and objects.

    Raises:
        UserError: the data set has other classes than the run, or the split no objects.
    """
    from finetune.evaluation.coco_eval import ground_truth

    classes = class_names(data)
    run.check_classes(data, classes)
    records = load_split(data, split)
    truth = ground_truth(records, classes)
    if all(annotation["iscrowd"] for annotation in truth.anns.values()):
        raise UserError(f"the split {split} of {data} has no objects to measure on: give another --data")
    return records, truth


def predict_staged(staged: Path, records: Sequence[Record], *options: str, name: str = "") -> Record:
    """Run ``predict_photos.py``, with ``options``, on a staged archive; ``name`` tells simultaneous runs apart."""
    photos = write_photos(staged.parent / f"photos{name}.json", records)
    answer = staged.parent / f"answer{name}.json"
    what = "measuring the archive"
    run_tool(staged, "predict_photos.py", staged, photos, answer, *options, what=what)
    return read_json(answer)


def write_photos(path: Path, records: Sequence[Record]) -> Path:
    """Write the list of photos that the tools of ``handler/build`` read; return ``path``."""
    write_json(path, [{"id": record["image_id"], "file_name": record["file_name"]} for record in records])
    return path
