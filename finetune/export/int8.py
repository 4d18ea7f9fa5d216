"""The 8-bit model of an archive: calibrated, tried, and its loss of accuracy measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.export.processes import Script, announce, run_scripts
from finetune.files import read_json, write_json


def build_with_int8(
    staged: Path, classes: Sequence[str], data: Path, work: Path, source: Path
) -> dict[str, Any]:
    """Add the OpenVINO model and the int8 model to ``staged``; return what the archive's card says of the latter.

    Int8 and fp32 are compared on the test split, or on val if there is no test split.

    Args:
        staged: the archive's folder.
        data: a data set; its val split calibrates.
        work: a folder for temporary files.
        source: the source tree, whose ``handler/build`` does the work.

    Raises:
        UserError: the data set has no such split, or a step failed.
    """
    from finetune.data.dataset import load_split
    from finetune.evaluation.coco_eval import evaluate_results

    calibration = load_split(data, "val")
    split = "test" if (data / "test.json").is_file() else "val"
    records = load_split(data, split)
    calibration_photos = _write_photos(work / "calibration.json", calibration)
    photos = _write_photos(work / "photos.json", records)
    results = {precision: work / f"{precision}.json" for precision in ("fp32", "int8")}
    build = source / "handler" / "build"
    quantize = build / "quantize.py"

    announce(
        f"converting the network for OpenVINO, calibrating int8 on {len(calibration)} photos, measuring fp32 on the "
        f"{len(records)} photos of {split}"
    )
    scripts: list[Script] = [
        [build / "convert.py", staged],
        [quantize, "calibrate", staged, calibration_photos],
        [quantize, "predict", staged, photos, "fp32", results["fp32"]],
    ]
    run_scripts(source, scripts, "the conversion to int8")

    announce(f"trying int8 over a grid of shapes, then measuring it on the {len(records)} photos of {split}")
    scripts = [[quantize, "trial", staged], [quantize, "predict", staged, photos, "int8", results["int8"]]]
    # in a process of its own: OpenVINO has crashed on an int8 model
    run_scripts(source, scripts, "the trial of the int8 model (leave --int8 out)")

    card: dict[str, Any] = {"calibration": {"split": "val", "images": len(calibration)}, "split": split}
    for precision, path in results.items():
        figures, _, _ = evaluate_results(records, read_json(path), classes)
        card[precision] = {
            kind: {name: figures[kind][name] for name in ("AP", "AP50")} for kind in ("segm", "bbox")
        }
    fp32, int8 = (card[precision]["segm"]["AP"] for precision in ("fp32", "int8"))
    card["segm_AP_loss"] = None if None in (fp32, int8) else round(fp32 - int8, 2)
    announce(f"int8 loses {card['segm_AP_loss']} points of segm AP on {split}")
    return card


def _write_photos(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    write_json(
        path, [{"id": r["image_id"], "file_name": str(Path(r["file_name"]).resolve())} for r in records]
    )
    return path
