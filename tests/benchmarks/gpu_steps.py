"""The steps of :mod:`tests.benchmarks.gpu_check`: each returns its figures, and raises where it fails."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from handler.model import Detections
from handler.model.predictor import Predictor
from handler.model.preprocess import resize
from handler.service import Request, Service
from tests.benchmarks.comparing import assert_equal, matched_iou
from tests.benchmarks.measuring import AT_800, alternate, maskrcnn, summary
from tests.toy_models import TINY, photo, quiet_detectron2, write_unpacked_archive

STARTER = Path("model_store/mobilenetv2_fpn_starter.safetensors")
BATCHES = (1, 2, 4, 8)
LOW_PRECISION = ("fp16", "bf16")
AP_TO_LOSE = 1.0  # points of mask AP that fp16 and bf16 may lose to fp32, on drawn photos


@dataclass(frozen=True)
class Setting:
    """Where a step runs: the GPU with models of full size, or the processor with a toy."""

    folder: Path
    dry_run: bool

    @property
    def device(self) -> str:
        return "cpu" if self.dry_run else "cuda"

    def photos(self) -> list[np.ndarray]:
        sizes = (
            [(120, 160), (96, 96), (300, 150)] if self.dry_run else [(1536, 2048), (800, 800), (1600, 900)]
        )
        return [photo(*size, seed=seed) for seed, size in enumerate(sizes, 1)]

    def jpeg(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.photos()[0]).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    def archive(self) -> Path:
        """An unpacked archive of random weights that find about ten objects."""
        at_800 = [str(word) for key, pixels in AT_800.items() for word in (f"INPUT.{key}", pixels)]
        backbone, overrides = ("mobilenetv2_fpn", TINY) if self.dry_run else ("resnet50_fpn", at_800)
        write_unpacked_archive(self.folder / "archive", backbone, overrides=overrides)
        return self.folder / "archive"

    def predictor(self, archive: Path, precision: str, device: str | None = None) -> Predictor:
        return Predictor.load(archive, device=device or self.device, precision=precision, engine="torch")


def ceilings(setting: Setting) -> dict[str, Any]:
    """What the device reaches at best: a matrix product, and a copy within its memory."""
    side = 256 if setting.dry_run else 8192
    one = torch.ones(side, side, device=setting.device, dtype=torch.bfloat16)
    calls: dict[str, Callable[[], object]] = {"product": lambda: one @ one, "copy": one.clone}
    seconds = {
        name: summary(times)["median_ms"] / 1000 for name, times in alternate(calls, repeats=10).items()
    }
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "teraflops_bf16": 2 * side**3 / seconds["product"] / 1e12,
        "copy_gigabytes_per_second": 2 * one.nbytes / seconds["copy"] / 1e9,
    }


def equality(setting: Setting) -> dict[str, Any]:
    """In fp32 the device finds what the processor finds: alone, eight together, beside photos that show nothing."""
    archive = setting.archive()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        cpu, fp32 = setting.predictor(archive, "fp32", "cpu"), setting.predictor(archive, "fp32")
        photos = []
        for image in setting.photos():  # resized once: each device rounds in its own way
            shape = cpu.network_shape(*image.shape[:2])
            resized = resize(image, shape)
            assert (resize(image, shape, fp32.device).cpu() - resized).abs().max() < 1.01, "levels of 255"
            photos.append(resized.numpy())
        exact = cpu.predict(photos)
        figures: dict[str, Any] = {"objects": [len(each) for each in exact]}
        for image, expected in zip(photos, exact, strict=True):
            assert_equal(fp32.predict([image])[0], expected)
        for found in fp32.predict(photos[:1] * 8):
            assert_equal(found, exact[0])
        gray = np.full_like(photos[0], 128)
        for found in fp32.predict([gray, photos[0], gray])[1::2]:
            assert_equal(found, exact[0])
    return figures


def latency(setting: Setting) -> dict[str, Any]:
    """Milliseconds a photo, beside ``DefaultPredictor`` and Detectron2 without pasting, in one run."""
    from tests.benchmarks.bench_predictor import default_predictor

    run, rgb = setting.folder / "run", setting.photos()[0]
    archive = setting.archive()
    run.mkdir()
    shutil.copy(archive / "model.safetensors", run / "model_best.safetensors")
    shutil.copy(archive / "config.yaml", run)
    default, ours = default_predictor(run, setting.device), setting.predictor(archive, "auto")
    bgr = rgb[:, :, ::-1].copy()
    resized = default.aug.get_transform(bgr).apply_image(bgr).astype("float32").transpose(2, 0, 1)
    inputs = [{"image": torch.as_tensor(resized.copy())}]
    calls: dict[str, Callable[[], object]] = {
        "DefaultPredictor": lambda: default(bgr),
        "Detectron2, masks not pasted": lambda: default.model.inference(inputs, do_postprocess=False),
        **{f"ours, batch {n}": (lambda n=n: ours.predict([rgb] * n)) for n in BATCHES},
    }
    with torch.no_grad(), quiet_detectron2():
        seconds = alternate(calls, repeats=2 if setting.dry_run else 20, warm_up=1 if setting.dry_run else 3)
    photos = {name: int(name.rpartition(" ")[2]) if "batch" in name else 1 for name in seconds}
    figures: dict[str, Any] = {
        f"{name}, ms a photo": summary(times)["median_ms"] / photos[name] for name, times in seconds.items()
    }
    reference = figures["DefaultPredictor, ms a photo"]
    for n in (1, 8):
        figures[f"faster at batch {n}"] = reference / figures[f"ours, batch {n}, ms a photo"]
    return figures | {"precision": ours.precision}


def failures(setting: Setting) -> dict[str, Any]:
    """Too little memory costs no answer; a broken GPU is found out."""
    archive = setting.archive()
    (archive / "model-config.yaml").write_text("batchSize: 8\n", encoding="utf-8")
    requests = [Request({"image": setting.jpeg()}, id=str(i)) for i in range(8)]
    service = Service.load(archive, device=setting.device)
    service.answer(requests[:1])
    figures: dict[str, Any] = {}
    if setting.dry_run:
        fail_once(service, torch.OutOfMemoryError("CUDA out of memory"))
    else:
        torch.cuda.reset_peak_memory_stats()
        service.answer(requests[:1])
        alone = torch.cuda.max_memory_reserved()
        service.answer(requests)
        figures |= {"mib_alone": alone / 2**20, "mib_of_eight": torch.cuda.max_memory_reserved() / 2**20}
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.1 * alone / torch.cuda.mem_get_info()[1])
    figures["statuses"] = [answer.status for answer in service.answer(requests)]
    assert figures["statuses"] == [200] * 8, figures
    if setting.dry_run:
        fail_once(service, RuntimeError("CUDA error: device-side assert triggered"))
    else:
        try:
            torch.ones(2, device="cuda")[torch.tensor([9], device="cuda")].tolist()
        except RuntimeError as error:
            figures["broken_gpu_says"] = str(error).splitlines()[0]
    service.answer(requests[:2])
    assert service.broken, "the next request would meet a broken GPU"
    return figures


def fail_once(service: Service, error: Exception) -> None:
    """Let the next prediction raise ``error``, and the others succeed."""
    predict = service.predictor.predict

    def failing(*_: Any) -> Any:
        service.predictor.predict = predict  # type: ignore[method-assign]
        raise error

    service.predictor.predict = failing  # type: ignore[method-assign]


def training(setting: Setting) -> dict[str, Any]:
    """Images a second with two loader workers and by default; a resumed run; a step under torchrun (NCCL)."""
    data, steps = setting.folder / "data", 4 if setting.dry_run else 60
    maskrcnn("data", "synthetic", "--root", data, "--images", "12" if setting.dry_run else "60")
    batch = 2 if setting.dry_run else 4
    toy = "MODEL.FPN.OUT_CHANNELS 16 FINETUNE.AUGMENT.CROP_SIZE 64 INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2"
    backbone = "mobilenetv2_fpn" if setting.dry_run else "resnet50_fpn"
    keys = f"SOLVER.MAX_ITER {steps} TEST.EVAL_PERIOD 0 SOLVER.CHECKPOINT_PERIOD 0".split()
    keys += ["MODEL.DEVICE", setting.device, *(toy.split() if setting.dry_run else [])]
    figures: dict[str, Any] = {}

    def train(run: Path, *more: str, launcher: tuple[str, ...] = ("-m", "maskrcnn")) -> dict[str, Any]:
        given = [] if "--resume" in more else [*keys, "--weights", "none"]
        maskrcnn("train", backbone, "--data", data, "--output", run, *given, *more, launcher=launcher)
        return json.loads((run / "run.json").read_text(encoding="utf-8"))

    for workers in ("2", "default"):
        run = setting.folder / workers
        chosen = [] if workers == "default" else ["DATALOADER.NUM_WORKERS", workers]
        seconds = train(run, "--stop-after", str(steps - 1), *chosen)["seconds"]
        figures[f"images a second, {workers} loader workers"] = (steps - 1) * batch / seconds
    assert train(run, "--resume")["iterations"] == steps
    record = train(
        setting.folder / "torchrun",
        *("--stop-after", "1"),
        launcher=("-m", "torch.distributed.run", "--nproc-per-node", "1", "--standalone", "-m", "maskrcnn"),
    )
    return figures | {"machine": record["machine"], "precision": record["precision"]}


def accuracy(setting: Setting) -> dict[str, Any]:
    """The starter on drawn photos: mask AP in each precision, masks as in fp32, sizes mixed as one by one."""
    from finetune.data.dataset import load_split
    from finetune.evaluation.coco_eval import ground_truth, match, summarize
    from finetune.export.archive import Options, export
    from handler.api.options import Options as Asked
    from handler.api.responses import coco_results
    from handler.imaging.decode import decode_image

    data = setting.folder / "data"
    maskrcnn("data", "synthetic", "--root", data, "--images", "12" if setting.dry_run else "200")
    archive = export(STARTER, Options(output=setting.folder, engine="torch"))
    shutil.unpack_archive(archive, setting.folder / "unpacked", "zip")
    records = load_split(data, "test")
    images = [decode_image(Path(record["file_name"]).read_bytes(), 10**8) for record in records]
    truth, ap, iou = ground_truth(records, ["balloon"]), {}, {}
    exact: list[Detections] = []
    for precision in ["fp32"] if setting.dry_run else ["fp32", *LOW_PRECISION]:
        predictor = setting.predictor(setting.folder / "unpacked", precision)
        assert predictor.precision == precision, "the features overflow"
        found = [predictor.predict([image])[0] for image in images]
        exact = exact or found
        iou[precision] = [matched_iou(*pair, images[0].shape) for pair in zip(found, exact, strict=True)]
        asked, size = Asked(score_threshold=0.0), images[0].shape[:2]
        results = [
            {**result, "image_id": record["image_id"]}
            for record, each in zip(records, found, strict=True)
            for result in coco_results(each, asked, *size)[:100]
        ]
        ap[precision] = float(summarize(match(truth, results, "segm")[0])["AP"] or 0)
    assert min(ap.values()) > ap["fp32"] - AP_TO_LOSE, ap
    mixed = [images[0], images[1][:, :480].copy(), images[0][:400].copy()]
    predictor = setting.predictor(setting.folder / "unpacked", "fp32")
    for image, together in zip(mixed, predictor.predict(mixed), strict=True):
        matched_iou(together, predictor.predict([image])[0], image.shape)
    return {"segm AP": ap, "IoU with fp32": {name: float(np.mean(values)) for name, values in iou.items()}}


STEPS = {step.__name__: step for step in (ceilings, equality, latency, failures, training, accuracy)}


def main() -> None:
    from tests.benchmarks.gpu_serving import serving

    name, folder, answer, *dry_run = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        figures = (STEPS | {"serving": serving})[name](Setting(Path(temporary), bool(dry_run)))
    Path(answer).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
