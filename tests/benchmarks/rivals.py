"""What other projects run, with our weights: torchvision's Mask R-CNN, its export in ONNX Runtime; and YOLO's network.

ONNX Runtime is no dependency: ``.venv/bin/python -m pip install onnxruntime onnx`` adds its row. YOLO's network comes
from an environment with ultralytics::

    python -c "from ultralytics import YOLO; YOLO('yolo11n-seg.yaml').export(format='openvino', imgsz=(448, 640))"
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from finetune.backbones import load_config
from handler.model.engines.openvino_engine import import_openvino

Rival = Callable[[np.ndarray], object]  # takes a photo, (H, W, 3) uint8 BGR

RENAMED = (  # Detectron2's names → torchvision's; the first that fits
    (r"backbone\.bottom_up\.stem\.conv1\.norm", "backbone.body.bn1"),
    (r"backbone\.bottom_up\.stem\.conv1", "backbone.body.conv1"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm", r"backbone.body.layer<\1>.\2.downsample.1"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut", r"backbone.body.layer<\1>.\2.downsample.0"),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm", r"backbone.body.layer<\1>.\2.bn\3"),
    (r"backbone\.bottom_up\.res(\d)", r"backbone.body.layer<\1>"),
    (r"backbone\.fpn_lateral(\d)", r"backbone.fpn.inner_blocks.<<\1>>.0"),
    (r"backbone\.fpn_output(\d)", r"backbone.fpn.layer_blocks.<<\1>>.0"),
    (r"proposal_generator\.rpn_head\.conv", "rpn.head.conv.0.0"),
    (r"proposal_generator\.rpn_head\.objectness_logits", "rpn.head.cls_logits"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn.head.bbox_pred"),
    (r"roi_heads\.box_head\.fc1", "roi_heads.box_head.fc6"),
    (r"roi_heads\.box_head\.fc2", "roi_heads.box_head.fc7"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)", r"roi_heads.mask_head.<\1>.0"),
    (r"roi_heads\.mask_head\.deconv", "roi_heads.mask_predictor.conv5_mask"),
    (r"roi_heads\.mask_head\.predictor", "roi_heads.mask_predictor.mask_fcn_logits"),
)


def torchvision_name(name: str) -> str:
    """torchvision's name of a tensor of Detectron2's Mask R-CNN on a ResNet.

    >>> torchvision_name("backbone.bottom_up.res3.0.conv1.norm.weight")
    'backbone.body.layer2.0.bn1.weight'
    """
    for pattern, replacement in RENAMED:
        name, count = re.subn(pattern, replacement, name, count=1)
        if count:
            break
    return re.sub(r"<+(\d)>+", lambda found: str(int(found[1]) - found[0].count("<")), name)


def torchvision_model(run: Path) -> nn.Module:
    """torchvision's ``maskrcnn_resnet50_fpn`` with the weights, sizes and strides of a run of ours with one class."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    cfg, weights = load_config(run / "config.yaml"), load_file(run / "model_best.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = maskrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=2,  # the background counts
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            image_mean=[each / 255 for each in cfg.MODEL.PIXEL_MEAN],
            image_std=[1 / 255] * 3,
        )
    for stage in (model.backbone.body[f"layer{n}"] for n in (2, 3, 4)):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)  # STRIDE_IN_1X1, as Detectron2 has it
    for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor"):
        for kind in ("weight", "bias"):
            weights[f"roi_heads.{name}.{kind}"] = _background_first(name, weights[f"roi_heads.{name}.{kind}"])
    model.load_state_dict(
        {
            torchvision_name(n): t
            for n, t in weights.items()
            if "anchor_generator" not in n and "pixel_" not in n
        }
    )
    return model.eval()


def _background_first(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Detectron2 puts the background last, or leaves it out; torchvision wants it first."""
    if name.endswith("cls_score"):
        return tensor.roll(1, 0)
    return torch.cat([torch.zeros_like(tensor), tensor])


def torchvision_rivals(run: Path, bgr: np.ndarray) -> dict[str, Rival]:
    """Its model in torch and, where ONNX Runtime is installed, its export, traced with ``bgr``."""
    model = torchvision_model(run)
    rivals: dict[str, Rival] = {
        "torchvision maskrcnn_resnet50_fpn": torch.inference_mode()(lambda photo: model([_scaled(photo)]))
    }
    if find_spec("onnxruntime") and find_spec("onnx"):
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.onnx"
            torch.onnx.export(model, ([_scaled(bgr)],), path, opset_version=17, dynamo=False)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # each pasted mask has another shape, and it warns of it
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (wanted,) = session.get_inputs()
        rivals["ONNX Runtime, torchvision's export"] = lambda photo: session.run(
            None, {wanted.name: _scaled(photo).numpy()}
        )
    return rivals


def _scaled(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))).float() / 255


def openvino_network(path: Path, threads: int) -> Callable[[], object]:
    """A converted network alone, in fp32 on random numbers of its own input's shape."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = import_openvino().Core().compile_model(path, "CPU", settings).create_infer_request()
    pixels = np.random.default_rng(0).random(list(request.model_inputs[0].shape), dtype=np.float32)
    return lambda: request.infer([pixels])
