"""In-process speed: Detectron2's ``DefaultPredictor`` and others against ours, same weights, same photo, same cores.

Every contestant starts from a photo in memory (2048 × 1536, or the split's first), resized to 800 pixels.
``DefaultPredictor``, torchvision and ONNX Runtime end with masks pasted into full-size arrays, ours with 28 × 28 masks
and boxes; Detectron2 without pasting ends where ours does. Random weights are arranged so that about ten objects are
found. Accuracy, where data is given: segm and bbox AP on a split, same checkpoint, for every contestant.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.engine import DefaultPredictor
from safetensors.torch import load_file

from finetune.backbones import load_config
from finetune.data.dataset import load_split
from finetune.evaluation.coco_eval import KINDS, ground_truth, match, summarize
from finetune.evaluation.inference import to_coco_results
from finetune.export.archive import Options, export
from handler.api.options import Options as Asked
from handler.api.responses import coco_results
from handler.model.cores import usable_cores
from handler.model.engines import INT8_IR_NAME
from handler.model.predictor import Predictor
from tests.benchmarks.floor import floors, multiply_adds, native_types, products, share
from tests.benchmarks.measuring import alternate, summary, write_run_at_800
from tests.benchmarks.rivals import openvino_network, torchvision_rivals
from tests.toy_models import photo, quiet_detectron2

Row = dict[str, Any]
HEIGHT, WIDTH = 1536, 2048
DEFAULT, UNPASTED = "Detectron2 DefaultPredictor", "Detectron2, masks not pasted"
SMALL = "448 × 640"


def rows_of(backbone: str, args: argparse.Namespace, folder: Path, trained: Path | None = None) -> list[Row]:
    """Measure one model, with random weights or a trained one's; a row per contestant and one per floor.

    Args:
        args: ``device``, ``seconds`` of timed calls, ``data``, ``split``, ``yolo``, of :mod:`tests.benchmarks.bench`.
    """
    run = write_run_at_800(folder / "run", backbone, trained)
    on_cpu, records = args.device == "cpu", load_split(args.data, args.split) if args.data and trained else []
    int8 = args.data if on_cpu and records else None
    archive = export(
        run, Options(output=folder, engine="openvino" if on_cpu else "torch", data=int8, max_loss=100)
    )
    shutil.unpack_archive(archive, folder / "unpacked", "zip")
    names = contestants(args.device, int8=(folder / "unpacked" / INT8_IR_NAME).is_file())
    ours = {f"ours {name}": _load(folder / "unpacked", name, args.device) for name in names}
    default = default_predictor(run, args.device)

    (rgb,) = read_photos(records[:1]) or [photo(HEIGHT, WIDTH, seed=1)]
    bgr = rgb[:, :, ::-1].copy()
    calls: dict[str, Callable[[], Any]] = {
        DEFAULT: lambda: default(bgr),
        UNPASTED: lambda: default.model.inference([_resized(default, bgr)], do_postprocess=False),
    }
    calls |= {name: partial(each.predict, [rgb]) for name, each in ours.items()}
    others = {**products()} if on_cpu else {}
    if on_cpu and trained:
        others |= small_contestants(folder, names[-1], args)
    elif on_cpu and backbone == "resnet50_fpn":
        others |= {name: partial(rival, bgr) for name, rival in torchvision_rivals(run, bgr).items()}
    with torch.no_grad(), quiet_detectron2():
        adds = multiply_adds(calls[UNPASTED])
        objects = {name: len(calls[name]()[0]) for name in (UNPASTED, *ours)}
        seconds: dict[str, Any] = alternate(calls | others, repeats=20, warm_up=2, limit=args.seconds)
    floor = floors(adds, seconds) if on_cpu else {}
    accuracy = _accuracies(records, default, ours) if records else {}
    return _table(trained.stem if trained else backbone, seconds, floor, objects, accuracy)


def _table(
    model: str, seconds: Row, floor: dict[str, float], objects: dict[str, int], accuracy: dict[str, Row]
) -> list[Row]:
    medians = {name: summary(times)["median_ms"] for name, times in seconds.items()}
    rows: list[Row] = [
        {
            "model": model,
            "contestant": name,
            **summary(times),
            "× DefaultPredictor": medians[DEFAULT] / medians[name],
            "× not pasted": medians[UNPASTED] / medians[name],
            "share of floor": None if SMALL in name else share(name, medians[name], floor),
            "objects": objects.get(name),
            **accuracy.get(name, {}),
        }
        for name, times in seconds.items()
    ]
    return rows + [{"model": model, "contestant": f"floor {n}", "median_ms": ms} for n, ms in floor.items()]


def small_contestants(folder: Path, name: str, args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Ours at 448 × 640 pixels with 300 proposals, on a photo of that shape, beside YOLO's network alone if given."""
    unpacked = folder / "small"
    shutil.copytree(folder / "unpacked", unpacked)
    config = yaml.safe_load((unpacked / "config.yaml").read_text())
    config["INPUT"] |= {"MIN_SIZE_TEST": 448, "MAX_SIZE_TEST": 640}
    config["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"] = 300
    (unpacked / "config.yaml").write_text(yaml.safe_dump(config))
    image = photo(1344, 1920, seed=1)
    calls: dict[str, Callable[[], object]] = {
        f"ours {each}, {SMALL}": partial(_load(unpacked, each, "cpu").predict, [image])
        for each in sorted({name, "openvino-fp32"})
    }
    if args.yolo:
        calls[f"YOLO11n-seg's network alone, fp32, {SMALL}"] = openvino_network(args.yolo, usable_cores())
    return calls


def contestants(device: str, *, int8: bool) -> list[str]:
    """``ENGINE-PRECISION`` of each contestant; bf16 only where the processor computes it, as emulation takes hours."""
    if device != "cpu":
        return ["torch-fp32", "torch-bf16", "torch-fp16"]
    names = [f"{engine}-{precision}" for engine in ("torch", "openvino") for precision in native_types()]
    return names + ["openvino-int8"] * int8


def default_predictor(run: Path, device: str) -> DefaultPredictor:
    """Detectron2's ``DefaultPredictor``, loaded from a ``.pth`` as people do."""
    checkpoint = run / "model.pth"
    torch.save({"model": load_file(run / "model_best.safetensors")}, checkpoint)
    cfg = load_config(run / "config.yaml")
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.DATASETS.TEST = str(checkpoint), device, ()
    with quiet_detectron2():
        return DefaultPredictor(cfg)


def _load(folder: Path, name: str, device: str) -> Predictor:
    engine, precision = name.split("-")
    return Predictor.load(folder, device=device, engine=engine, precision=precision)


def _resized(default: DefaultPredictor, bgr: np.ndarray) -> dict[str, torch.Tensor]:
    image = default.aug.get_transform(bgr).apply_image(bgr)
    return {"image": torch.as_tensor(image.astype("float32").transpose(2, 0, 1))}


def read_photos(records: Sequence[Row]) -> list[np.ndarray]:
    """The records' photos, (H, W, 3) uint8 RGB, as a person sees them."""
    from PIL import Image, ImageOps

    return [np.asarray(ImageOps.exif_transpose(Image.open(r["file_name"])).convert("RGB")) for r in records]


def _accuracies(
    records: Sequence[Row], default: DefaultPredictor, ours: dict[str, Predictor]
) -> dict[str, dict[str, float | None]]:
    """AP of every contestant on a split."""
    results: dict[str, list[Row]] = {name: [] for name in (DEFAULT, *ours)}
    for record, image in zip(records, read_photos(records), strict=True):
        with torch.no_grad(), quiet_detectron2():
            inputs = [_resized(default, image[:, :, ::-1].copy())]
            (found,) = default.model.inference(inputs, do_postprocess=False)
        results[DEFAULT] += to_coco_results(found, record)
        for name, predictor in ours.items():
            (detections,) = predictor.predict([image])
            own = coco_results(detections, Asked(), *image.shape[:2])[:100]
            results[name] += [{**result, "image_id": record["image_id"]} for result in own]
    truth = ground_truth(records, next(iter(ours.values())).classes)
    accuracies = {}
    for name, found in results.items():
        ap = {kind: summarize(match(truth, found, kind)[0]) for kind in KINDS}
        row = {"segm AP": ap["segm"]["AP"], "segm AP50": ap["segm"]["AP50"], "bbox AP": ap["bbox"]["AP"]}
        accuracies[name] = row
    return accuracies
