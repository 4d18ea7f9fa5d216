"""The 8-bit model of an archive: calibrated, tried, and its price in accuracy measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.export.archived import run_archived, say
from finetune.files import write_json

MODULE = "handler.build.quantize"


def add_int8(staged: Path, data: Path, work: Path) -> dict[str, Any]:
    """Add the int8 model to ``staged``; return what the card says of it.

    It is tried over a grid of shapes in a process of its own, because a crash was seen, and compared with
    fp32 on the test split, or on val where there is none.
    """
    from finetune.data.dataset import load_split
    from finetune.evaluation.coco_eval import summarize
    from finetune.evaluation.matching import ground_truth, match

    calibration = load_split(data, "val")
    split = "test" if (data / "test.json").is_file() else "val"
    records = load_split(data, split)
    for name, chosen in (("calibration", calibration), ("measured", records)):
        photos = [{"id": r["image_id"], "file_name": str(Path(r["file_name"]).resolve())} for r in chosen]
        write_json(work / f"{name}.json", photos)
    say(f"calibrating int8 on {len(calibration)} photos")
    run_archived(staged, MODULE, "calibrate", staged, work / "calibration.json", what="quantisation")
    say("trying int8 over a grid of shapes")
    run_archived(staged, MODULE, "trial", staged, what="the trial of the int8 model (leave --int8 out)")
    card: dict[str, Any] = {"calibration": {"split": "val", "images": len(calibration)}, "split": split}
    truth = ground_truth(
        records, json.loads((staged / "archive.json").read_text(encoding="utf-8"))["classes"]
    )
    for precision in ("fp32", "int8"):
        say(f"measuring {precision} on the {len(records)} photos of {split}")
        results, photos_file = work / f"{precision}.json", work / "measured.json"
        run_archived(
            staged, MODULE, "predict", staged, photos_file, precision, results, what=f"measuring {precision}"
        )
        found = json.loads(results.read_text(encoding="utf-8"))
        ap = {kind: summarize(match(truth, found, kind)[0]) for kind in ("segm", "bbox")}
        card[precision] = {kind: {name: ap[kind][name] for name in ("AP", "AP50")} for kind in ap}
    both = card["fp32"]["segm"]["AP"], card["int8"]["segm"]["AP"]
    card["segm_AP_loss"] = None if None in both else round(both[0] - both[1], 2)
    say(f"int8 costs {card['segm_AP_loss']} points of segm AP on {split}")
    return card
