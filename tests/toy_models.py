"""Random Mask R-CNNs whose features, scores and boxes spread like a trained one's, and archives of them.

A freshly initialized detector with frozen norms either explodes or answers the same for every box. Here each
frozen norm is given the statistics of what flows through it (what a batch norm would have learned), and the
last layers are scaled so that a few boxes stand out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from finetune.checkpoints.run import Run
from finetune.configs.keys import get_config
from finetune.data.dataset import load_split
from finetune.evaluation.inference import predict

TINY = (
    "MODEL.FPN.OUT_CHANNELS 32 MODEL.ROI_BOX_HEAD.FC_DIM 64 MODEL.ROI_MASK_HEAD.CONV_DIM 32 "
    "MODEL.ROI_MASK_HEAD.NUM_CONV 1 INPUT.MIN_SIZE_TEST 96 INPUT.MAX_SIZE_TEST 160 "
    "MODEL.ANCHOR_GENERATOR.SIZES [[8],[16],[32],[64],[128]] MODEL.RPN.POST_NMS_TOPK_TEST 100"
).split()
"""Overrides that make a model small and fast enough for tests."""


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colored ellipses on a gradient: (height, width, 3) uint8 RGB, with edges at many scales."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 9) * np.cos(y / 13)], axis=2)
    for _ in range(12):
        cx, cy, rx, ry = random.uniform(0, 1, 4) * (width, height, width / 4, height / 4)
        picture[((x - cx) / (rx + 2)) ** 2 + ((y - cy) / (ry + 2)) ** 2 < 1] = random.uniform(0, 255, 3)
    return picture.clip(0, 255).astype(np.uint8)


@contextmanager
def quiet_detectron2() -> Iterator[None]:
    """Run Detectron2's own inference without the two warnings that recent torch raises."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid")
        yield


@quiet_detectron2()
@torch.no_grad()
def random_model(cfg: CfgNode, *, detections: int = 10, seed: int = 0) -> nn.Module:
    """A model of ``cfg`` with random weights that finds about ``detections`` objects in :func:`photo`."""
    torch.manual_seed(seed)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    short = min(cfg.INPUT.MIN_SIZE_TEST, 320)
    pixels = torch.from_numpy(photo(short, short * 4 // 3, seed).copy()).permute(2, 0, 1).flip(0).float()
    batch = model.preprocess_image([{"image": pixels}])
    _learn_statistics(model.backbone, batch.tensor)

    head = model.proposal_generator.rpn_head
    for layer, deviation in ((head.objectness_logits, 2.0), (head.anchor_deltas, 0.3)):
        hidden = head.conv(model.backbone(batch.tensor)["p3"])
        layer.weight *= deviation / layer(hidden).std()
    predictor = model.roi_heads.box_predictor
    predictor.bbox_pred.weight *= 20
    inputs = {}
    handle = predictor.register_forward_pre_hook(lambda _module, args: inputs.update(x=args[0]))
    model.inference([{"image": pixels}], do_postprocess=False)
    handle.remove()
    scores = predictor.cls_score(inputs["x"])
    predictor.cls_score.weight *= 2.5 / (scores[:, 0] - scores[:, -1]).std()
    scores = predictor.cls_score(inputs["x"])
    margins = (scores[:, :-1].max(dim=1).values - scores[:, -1]).sort(descending=True).values
    # overlapping boxes are suppressed: about twice as many must pass the threshold for so many to stay
    passing = min(2 * detections, len(margins) - 1)
    predictor.cls_score.bias[-1] = margins[passing] + 2.94  # the logit of 0.95: scores there become 0.05
    mask_head = model.roi_heads.mask_head
    mask_head.predictor.weight *= 500
    return model.requires_grad_(False)


def _learn_statistics(backbone: nn.Module, images: torch.Tensor) -> None:
    def learn(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        norm.running_mean.copy_(args[0].mean((0, 2, 3)))  # type: ignore[operator, union-attr]
        norm.running_var.copy_(args[0].var((0, 2, 3)).clamp(min=1e-4))  # type: ignore[operator, union-attr]

    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    handles = [norm.register_forward_pre_hook(learn) for norm in norms]
    backbone(images)
    for handle in handles:
        handle.remove()


def write_run(
    folder: Path,
    backbone: str = "mobilenetv2_fpn",
    overrides: Sequence[str] = TINY,
    *,
    classes: Sequence[str] = ("balloon",),
    detections: int = 10,
) -> nn.Module:
    """Write a run folder as ``finetune train`` leaves it, of a random model; return the model."""
    cfg = get_config(backbone, [*overrides, "MODEL.ROI_HEADS.NUM_CLASSES", str(len(classes))])
    cfg.MODEL.DEVICE = "cpu"
    model = random_model(cfg, detections=detections)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model_best.safetensors", metadata={"format": "pt"})
    run = {"backbone": backbone, "classes": list(classes), "iterations": 0, "seed": 0}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return model


def write_unpacked_archive(folder: Path, backbone: str = "mobilenetv2_fpn", **kwargs: Any) -> nn.Module:
    """Write what a predictor needs of an unpacked archive, without OpenVINO's files; return the model."""
    model = write_run(folder, backbone, **kwargs)
    weights = folder / "model.safetensors"
    (folder / "model_best.safetensors").rename(weights)
    card = {
        "format": 1,
        "name": "maskrcnn",
        "version": backbone,
        "backbone": backbone,
        "classes": json.loads((folder / "run.json").read_text(encoding="utf-8"))["classes"],
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    (folder / "archive.json").write_text(json.dumps(card), encoding="utf-8")
    return model


def write_data_of(run: Path, root: Path) -> Path:
    """Write a data set of two photos whose objects are what the run's model finds in them, so that its AP is high.

    Both splits, train and val, hold the same photos; return ``root``.
    """
    images = [{"id": 5 + i, "file_name": f"{i}.png", "width": 128, "height": 96} for i in range(2)]
    for i, image in enumerate(images):
        Image.fromarray(photo(96, 128, seed=i)).save(root / f"{i}.png")
        image["annotations"] = []
    card = {"name": "toy", "classes": ["balloon"], "source": "the model itself", "splits": {"val": 2}}
    (root / "dataset.json").write_text(json.dumps(card))
    document: dict[str, Any] = {
        "images": images,
        "annotations": [],
        "categories": [{"id": 1, "name": "balloon"}],
    }
    (root / "val.json").write_text(json.dumps(document))
    opened = Run.open(run)
    results, _ = predict(opened.load_model(), load_split(root, "val"), opened.config)
    for i, result in enumerate(results, start=1):
        mask = result["segmentation"] | {"counts": result["segmentation"]["counts"].decode()}
        document["annotations"].append(result | {"id": i, "segmentation": mask, "iscrowd": 0})
    for split in ("train", "val"):
        (root / f"{split}.json").write_text(json.dumps(document))
    return root
