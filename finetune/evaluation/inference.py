"""Run a model over the photos of a data set: COCO results and times. (The service has its own, faster path.)"""

import logging
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from pycocotools import mask as coco_mask
from tqdm import tqdm

from finetune.evaluation.coco_eval import KINDS, ground_truth, match, summarize

MAX_DETECTIONS = 100  # COCO's AP ignores any beyond the first 100, and masks cost time


def evaluate_model(
    model: GeneralizedRCNN, dataset_dicts: Sequence[dict[str, Any]], classes: Sequence[str], cfg: CfgNode
) -> dict[str, dict[str, float | None]]:
    """Return a model's ``{"segm": {"AP": …, "AP50": …, …}, "bbox": {…}}`` on a split, in percent.

    The model is left in the mode (training or evaluation) that it was in.
    """
    results, _ = predict(model, dataset_dicts, cfg)
    truth = ground_truth(dataset_dicts, classes)
    return {kind: summarize(match(truth, results, kind)[0]) for kind in KINDS}


def predict(
    model: GeneralizedRCNN,
    dataset_dicts: Sequence[dict[str, Any]],
    cfg: CfgNode,
    *,
    warm_up: bool = False,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], list[float]]:
    """Run a Mask R-CNN over photos, one at a time, resized as ``cfg.INPUT.MIN_SIZE_TEST`` says.

    Args:
        dataset_dicts: Detectron2's standard dicts.
        warm_up: run the first photo twice, so that no time includes one-off work.
        progress: show a bar if stderr is a terminal.

    Returns:
        COCO results (``image_id``, ``category_id`` from 1, ``bbox`` XYWH in pixels of the photo, ``score``,
        ``segmentation`` as compressed RLE), at most 100 per photo; and for each photo the seconds that the
        network took, from resized tensor to boxes and 28 × 28 masks.
    """
    silence_known_warnings()
    was_training = model.training
    model.eval()
    results: list[dict[str, Any]] = []
    seconds: list[float] = []
    hidden = None if progress else True  # None: hidden unless stderr is a terminal
    with torch.no_grad():
        for i, record in enumerate(tqdm(dataset_dicts, unit="photo", leave=False, disable=hidden)):
            inputs = [{"image": read_resized(record["file_name"], cfg)}]
            if warm_up and i == 0:
                model.inference(inputs, do_postprocess=False)
            _synchronize(model)
            start = time.perf_counter()
            [instances] = model.inference(inputs, do_postprocess=False)
            _synchronize(model)
            seconds.append(time.perf_counter() - start)
            results += to_coco_results(instances, record)
    model.train(was_training)
    return results, seconds


def read_resized(path: str, cfg: CfgNode) -> torch.Tensor:
    """Read a photo, upright, as network input: (3, H, W) float32, 0..255, channels as ``cfg.INPUT.FORMAT`` says."""
    image = read_image(path, format=cfg.INPUT.FORMAT)
    resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    image = resize.get_transform(image).apply_image(image)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))


def to_coco_results(instances: Instances, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Convert raw detections, in pixels of the network's input, to COCO results in pixels of the photo."""
    height, width = record["height"], record["width"]
    instances = instances[instances.scores.argsort(descending=True)[:MAX_DETECTIONS]].to("cpu")
    # renamed, so that Detectron2 scales and clips the boxes but leaves the masks at 28 × 28
    instances.small_masks = instances.pred_masks[:, 0].float()
    instances.remove("pred_masks")
    instances = detector_postprocess(instances, height, width)
    boxes = instances.pred_boxes.tensor
    results = []
    for box, small_mask, score, class_id in zip(
        boxes, instances.small_masks, instances.scores.tolist(), instances.pred_classes.tolist(), strict=True
    ):
        x1, y1, x2, y2 = box.tolist()
        left, top = max(int(x1) - 1, 0), max(int(y1) - 1, 0)
        right, bottom = min(int(x2) + 2, width), min(int(y2) + 2, height)
        # paste into the box's surroundings only: pasting into the whole photo is slow
        offset = torch.tensor([left, top, left, top], dtype=box.dtype)
        [crop] = paste_masks_in_image(small_mask[None], (box - offset)[None], (bottom - top, right - left))
        results.append(
            {
                "image_id": record["image_id"],
                "category_id": class_id + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
                "segmentation": crop_to_rle(crop.numpy(), left, top, height, width),
            }
        )
    return results


def crop_to_rle(crop: np.ndarray, left: int, top: int, height: int, width: int) -> dict[str, Any]:
    """Compressed COCO RLE of a full-size mask that is zero outside of ``crop``, (h, w) bool at ``left``, ``top``.

    Equal to ``pycocotools.mask.encode`` of the full-size mask, which takes several times longer.
    """
    strip = np.zeros((crop.shape[1], height), bool)  # transposed: RLE runs down the columns
    strip[:, top : top + crop.shape[0]] = crop.T
    edges = np.flatnonzero(np.diff(strip.reshape(-1), prepend=False, append=False)) + left * height
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    if counts[-1] == 0 and len(counts) > 1:  # COCO omits an empty last run
        counts.pop()
    return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def _synchronize(model: GeneralizedRCNN) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def silence_known_warnings() -> None:
    """Hide two warnings about how Detectron2 calls torch, which users can do nothing about."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
