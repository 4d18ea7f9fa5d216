"""In-process speed: Detectron2's ``DefaultPredictor`` against ours, same weights, same photo, same cores.

    python -m tests.benchmarks.bench_predictor                        # random weights, four backbones
    python -m tests.benchmarks.bench_predictor --run RUN --data DIR   # a trained one, with its accuracy

Every contestant starts from a photo in memory (2048 × 1536, or the split's first), resized to 800 pixels.
``DefaultPredictor`` ends with masks pasted into full-size arrays, ours with 28 × 28 masks and boxes; the
second baseline, Detectron2 without pasting, ends where ours does. Random weights are arranged so that about
ten objects are found.
Accuracy, where a run is given: segm and bbox AP on a split, same checkpoint, for every contestant.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from safetensors.torch import load_file

from finetune.backbones import BACKBONES, load_config
from finetune.evaluation.coco_eval import KINDS, ground_truth, match, summarize
from finetune.evaluation.inference import to_coco_results
from finetune.export.archive import Options, export
from handler.api.options import Options as Asked
from handler.api.responses import coco_results
from handler.model.engines import INT8_IR_NAME
from handler.model.precision import cpu_supports
from handler.model.predictor import Predictor
from tests.benchmarks.measuring import (
    alternate,
    argument_parser,
    bar_chart,
    machine,
    save,
    summary,
    table,
    write_run_at_800,
)
from tests.toy_models import photo, quiet_detectron2

HEIGHT, WIDTH = 1536, 2048


def main() -> int:
    parser = argument_parser(__doc__, "reports/bench_predictor")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES, metavar="NAME")
    parser.add_argument("--run", type=Path, help="a run folder or checkpoint instead of random weights")
    parser.add_argument("--data", type=Path, help="with --run: measure accuracy, and int8, on this")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--repeats", type=int, default=20, help="timed calls of each contestant (default: 20)"
    )
    parser.add_argument("--contestants", nargs="+", metavar="ENGINE-PRECISION", help="such as openvino-bf16")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        print("no GPU")
        return 0
    rows: list[dict[str, Any]] = []
    report = {"machine": machine(), "short_side": 800, "rows": rows}
    for backbone in [None] if args.run else args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            rows += bench(backbone, args, Path(folder))
        text = describe(report["machine"]) + "\n\n" + table(rows)
        save(args.output, "bench_predictor", report, text)
    print(text)
    title = f"One photo at 800 pixels, {describe(report['machine'])}"
    chart = args.output / "bench_predictor.png"
    bar_chart(chart, rows, group="backbone", label="contestant", value="median_ms", title=title)
    print(f"\n{args.output}")
    return 0


def bench(backbone: str | None, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure one model; a row per contestant."""
    run = write_run_at_800(folder / "run", backbone or "", args.run)
    on_cpu = args.device == "cpu"
    engine, data = ("openvino", args.data) if on_cpu else ("torch", None)
    archive = export(run, Options(output=folder, engine=engine, data=data, max_loss=100))
    shutil.unpack_archive(archive, folder / "unpacked", "zip")

    names = args.contestants or contestants(args.device, int8=(folder / "unpacked" / INT8_IR_NAME).is_file())
    ours = {name: _load(folder / "unpacked", name, args.device) for name in names}
    default = default_predictor(run, args.device)

    rgb = photo(HEIGHT, WIDTH, seed=1)
    if args.data:
        from PIL import Image

        rgb = np.asarray(Image.open(_records(args)[0]["file_name"]).convert("RGB"))
    bgr = rgb[:, :, ::-1].copy()
    small = _resized(default, bgr)
    calls: dict[str, Callable[[], object]] = {
        "Detectron2 DefaultPredictor": lambda: default(bgr),
        "Detectron2, masks not pasted": lambda: default.model.inference(
            [_resized(default, bgr)], do_postprocess=False
        ),
        **{f"ours {name}": (lambda p=p: p.predict([rgb])) for name, p in ours.items()},
    }
    with torch.no_grad(), quiet_detectron2():
        found = len(default.model.inference([small], do_postprocess=False)[0])
        seconds = alternate(calls, repeats=args.repeats)
    accuracy = _accuracies(args, default, ours) if args.data else {}
    reference = summary(seconds["Detectron2 DefaultPredictor"])["median_ms"]
    unpasted = summary(seconds["Detectron2, masks not pasted"])["median_ms"]
    return [
        {
            "backbone": backbone or args.run.stem,
            "contestant": name,
            "photo": f"{rgb.shape[1]}x{rgb.shape[0]}",
            **summary(times),
            "× DefaultPredictor": reference / summary(times)["median_ms"],
            "× not pasted": unpasted / summary(times)["median_ms"],
            "objects": found
            if name.startswith("Detectron2")
            else len(ours[name[5:]].predict([rgb])[0].scores),
            **accuracy.get(name, {}),
        }
        for name, times in seconds.items()
    ]


def contestants(device: str, *, int8: bool) -> list[str]:
    """``ENGINE-PRECISION`` of each contestant; bf16 only where the processor computes it, as emulation takes hours."""
    if device != "cpu":
        return ["torch-fp32", "torch-bf16", "torch-fp16"]
    precisions = ["fp32", *["bf16"] * cpu_supports("amx_bf16", "avx512_bf16")]
    names = [f"{engine}-{precision}" for engine in ("torch", "openvino") for precision in precisions]
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


def _records(args: argparse.Namespace) -> list[dict[str, Any]]:
    from finetune.data.dataset import load_split

    return load_split(args.data, args.split)


def _accuracies(
    args: argparse.Namespace, default: DefaultPredictor, ours: dict[str, Predictor]
) -> dict[str, dict[str, float | None]]:
    """AP of every contestant on the split."""
    from PIL import Image, ImageOps

    records = _records(args)
    images = [np.asarray(ImageOps.exif_transpose(Image.open(r["file_name"])).convert("RGB")) for r in records]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ("Detectron2 DefaultPredictor", *ours)}
    for record, image in zip(records, images, strict=True):
        with torch.no_grad(), quiet_detectron2():
            inputs = [_resized(default, image[:, :, ::-1].copy())]
            (found,) = default.model.inference(inputs, do_postprocess=False)
        results["Detectron2 DefaultPredictor"] += to_coco_results(found, record)
        for name, predictor in ours.items():
            (detections,) = predictor.predict([image])
            own = coco_results(detections, Asked(), *image.shape[:2])[:100]
            results[name] += [{**result, "image_id": record["image_id"]} for result in own]
    truth = ground_truth(records, next(iter(ours.values())).classes)
    accuracies = {}
    for name, found in results.items():
        ap = {kind: summarize(match(truth, found, kind)[0]) for kind in KINDS}
        row = {"segm AP": ap["segm"]["AP"], "segm AP50": ap["segm"]["AP50"], "bbox AP": ap["bbox"]["AP"]}
        accuracies[name if name.startswith("Detectron2") else f"ours {name}"] = row
    return accuracies


def describe(where: dict[str, Any]) -> str:
    units = ", ".join(where["matrix_units"]) or "no matrix units"
    return where["gpu"] or f"{where['processor']}, {where['cores']} cores ({units})"


if __name__ == "__main__":
    sys.exit(main())
