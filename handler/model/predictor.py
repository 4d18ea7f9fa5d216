"""A trained Mask R-CNN, loaded from an archive and arranged for inference.

::

    predictor = Predictor.load(Path("unpacked archive"))
    boxes = predictor.predict([rgb_image])[0].boxes
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling import build_model as build

from handler.archive import Archive, open_archive
from handler.errors import ArchiveError
from handler.model import Detections, Wanted
from handler.model.cores import usable_cores
from handler.model.engines import INT8_IR_NAME, IR_NAME, Engine, choose_engine, prefer_int8
from handler.model.engines.torch_engine import TorchEngine, Trunk
from handler.model.precision import choose_dtype, name_of
from handler.model.preprocess import Normalizer, group_like_sized, resize
from handler.model.proposals import ProposalGenerator
from handler.model.roi_heads import Found, RoiHeads

logger = logging.getLogger(__name__)

_WARM_UP_DETECTIONS = 10


class Predictor:
    """A Detectron2 Mask R-CNN, loaded and arranged for inference.

    Attributes:
        classes: class names, in the order of ``class_ids``.
        card: the archive's ``archive.json``.
        device, precision, engine, threads: what was chosen, for the model's description and logs.
        short_side, long_side, normalize: how photos become the network's input.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        device: torch.device,
        dtype: torch.dtype,
        engine: str,
        threads: int,
        int8: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        self.classes: list[str] = list(archive.card["classes"])
        self.card: dict[str, Any] = archive.card
        self.device = device
        self.precision = "int8" if int8 else name_of(dtype)
        self.threads = threads
        self._lock = threading.Lock()  # an engine returns its own buffers: one call at a time

        model = build_model(archive)
        trunk = Trunk(model)
        cfg = archive.cfg
        self.short_side, self.long_side = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        self.normalize = Normalizer(
            cfg.MODEL.PIXEL_MEAN,
            cfg.MODEL.PIXEL_STD,
            bgr=cfg.INPUT.FORMAT == "BGR",
            multiple=model.backbone.size_divisibility,
            device=device,
        )
        self._engine = self._make_engine(engine, archive.folder, trunk, dtype, cuda_graphs)
        self.engine = self._engine.name
        self._propose = ProposalGenerator(
            model.proposal_generator.to(device=device), on_gpu=device.type != "cpu"
        )
        self._roi_heads = RoiHeads(model, self._engine, device)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        cuda_graphs: bool = False,
    ) -> Predictor:
        """Load an unpacked archive.

        Args:
            folder: where the archive was unpacked.
            device: ``cpu``, ``cuda``, ``cuda:1``…; default: the GPU if there is one.
            precision: ``auto | fp32 | bf16 | fp16 | int8``, see :func:`handler.model.precision.choose_dtype`.
            engine: ``auto | torch | openvino``, see :func:`handler.model.engines.choose_engine`.
            threads: cores to use; default: all that this process may run on.
            cuda_graphs: on a GPU, replay the layers as CUDA graphs (:mod:`handler.model.engines.cuda_graphs`).

        Raises:
            ArchiveError, PrecisionError, EngineError.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = prefer_int8(precision, engine, device, Path(folder))
        dtype = choose_dtype(precision, device)
        threads = threads or usable_cores()
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        archive = open_archive(Path(folder))
        name = choose_engine(engine, precision, device, archive.folder)
        make = partial(
            cls,
            archive,
            device=device,
            engine=name,
            threads=threads,
            int8=precision == "int8",
            cuda_graphs=cuda_graphs and device.type == "cuda",
        )
        predictor = make(dtype=dtype)
        if dtype is torch.float16 and predictor._overflows():
            logger.warning("this model's features are too large for fp16: it runs in bf16")
            predictor = make(dtype=torch.bfloat16)
        return predictor

    @torch.inference_mode()
    def predict(
        self, images: Sequence[np.ndarray], wanted: Sequence[Wanted] | None = None
    ) -> list[Detections]:
        """Detect objects in photos, which may differ in size.

        Args:
            images: each (H, W, 3) uint8 RGB.
            wanted: what to find in each image; default: everything.

        Returns:
            One :class:`Detections` per image, in pixels of that image: scores above the model's test
            threshold (0.05), at most 300.

        Raises:
            torch.OutOfMemoryError: the batch does not fit into GPU memory; fewer images at once may.
            ValueError: ``wanted`` is not one for each image.
        """
        wanted = [Wanted()] * len(images) if wanted is None else wanted
        if len(wanted) != len(images):
            raise ValueError(f"{len(wanted)} `wanted` for {len(images)} images")
        shapes = [self.network_shape(*image.shape[:2]) for image in images]
        results: dict[int, Detections] = {}
        with self._lock:
            for group in self._groups(shapes):
                found = self._run(
                    [resize(images[i], shapes[i], self.device) for i in group],
                    [images[i].shape[:2] for i in group],
                    [wanted[i] for i in group],
                )
                results.update(zip(group, found, strict=True))
        return [results[i] for i in range(len(images))]

    def network_shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to."""
        height, width = ResizeShortestEdge.get_output_shape(height, width, self.short_side, self.long_side)
        return height, width

    @torch.inference_mode()
    def warm_up(self, image: np.ndarray, batch_size: int = 1) -> None:
        """Run each batch size that a GPU may get, with the mask head, and prepare what is made on first use.

        Proposals stand in for instances: an image that serves to warm up may show nothing.

        Args:
            image: (H, W, 3) uint8 RGB.
            batch_size: the largest; a CPU runs images one by one and needs only one.
        """
        resized = resize(image, self.network_shape(*image.shape[:2]), self.device)
        with self._lock:
            for count in range(1, 1 + (1 if self.device.type == "cpu" else batch_size)):
                features, rois, limits = self._propose_in([resized] * count)
                self._roi_heads.detect(features, rois, limits)
                found = _as_found(rois.cpu(), count)
                self._roi_heads.masks(features, found, [True] * count)

    @torch.inference_mode()
    def _overflows(self) -> bool:
        """Whether a picture of noise drives the trunk near fp16's largest number.

        Beyond it are infinities, and Detectron2 drops proposals that are not finite without a word.
        """
        side = self.short_side
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        trunk = self._engine(self.normalize([resize(noise, (side, side), self.device)]))
        highest = torch.stack([level.abs().max() for part in trunk for level in part]).max()  # NaN if one is
        return not float(highest) < torch.finfo(torch.float16).max / 4

    def _make_engine(
        self, name: str, folder: Path, trunk: Trunk, dtype: torch.dtype, cuda_graphs: bool
    ) -> Engine:
        from handler.model.engines.openvino_engine import OpenVinoEngine, buckets

        few = buckets(self.short_side, self.long_side, self.normalize.multiple)
        if name == "torch":
            return TorchEngine(trunk, self.device, dtype, few if cuda_graphs else ())
        int8 = self.precision == "int8"
        shapes = few if int8 else [None]
        path, levels = folder / (INT8_IR_NAME if int8 else IR_NAME), len(trunk.rpn_in_features)
        return OpenVinoEngine(path, dtype, self.threads, levels=levels, shapes=shapes)

    def _groups(self, shapes: list[tuple[int, int]]) -> list[list[int]]:
        # a CPU gains nothing from batches (measured: two images together take longer than one by one)
        return group_like_sized(shapes) if self.device.type != "cpu" else [[i] for i in range(len(shapes))]

    def _run(
        self, images: list[torch.Tensor], photo_shapes: list[tuple[int, int]], wanted: list[Wanted]
    ) -> list[Detections]:
        """Detections of resized ``images``, in pixels of photos of ``photo_shapes``."""
        features, rois, limits = self._propose_in(images)
        found = self._roi_heads.detect(features, rois, limits)
        boxes = []
        for i, ((height, width), want) in enumerate(zip(photo_shapes, wanted, strict=True)):
            size = torch.tensor([width, height, width, height])
            in_photo = (found[i].boxes * (size / limits[i])).clamp(min=0).minimum(size)
            keep = _choose(found[i], in_photo, want)
            found[i] = found[i][keep]
            boxes.append(in_photo[keep])
        masks = self._roi_heads.masks(features, found, [want.masks for want in wanted])
        return [
            Detections(in_photo.numpy(), each.scores.numpy(), each.class_ids.numpy(), mask.numpy())
            for in_photo, each, mask in zip(boxes, found, masks, strict=True)
        ]

    def _propose_in(
        self, images: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """The features of resized ``images``, padded together, the proposals in them, and their sizes.

        Returns:
            p2..p5 as the heads read them, (R, 5) rois and (N, 4) limits, as :meth:`RoiHeads.detect` takes them.
        """
        trunk = self._engine(self.normalize(images))
        limits = torch.tensor([image.shape[1::-1] * 2 for image in images], dtype=torch.float32)
        return self._roi_heads.prepare(trunk.features), self._propose(trunk, limits), limits


def build_model(archive: Archive) -> GeneralizedRCNN:
    """Detectron2's model of the archive's config with the archive's weights, on the CPU, for inference.

    Raises:
        ArchiveError: the weights do not fit the config.
    """
    cfg = archive.cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    model = build(cfg)
    try:
        model.load_state_dict(archive.weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ArchiveError(
            f"model.safetensors does not fit config.yaml ({reason}): export it again"
        ) from error
    return model.eval().requires_grad_(False)


def _as_found(rois: torch.Tensor, images: int) -> list[Found]:
    """The best proposals (R, 5) in each image, as if they were instances of class 0."""
    best = [rois[rois[:, 0] == i, 1:][:_WARM_UP_DETECTIONS] for i in range(images)]
    return [Found(boxes, boxes[:, 0], torch.zeros(len(boxes), dtype=torch.int64)) for boxes in best]


def _choose(found: Found, boxes: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """Indices of the wanted instances, by falling score; ``boxes`` that are empty in the photo are dropped."""
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1) & (found.scores >= wanted.score_threshold)
    if wanted.classes is not None:
        keep &= torch.isin(found.class_ids, torch.tensor(sorted(wanted.classes), dtype=torch.int64))
    return keep.nonzero().flatten()[: wanted.max_detections]
