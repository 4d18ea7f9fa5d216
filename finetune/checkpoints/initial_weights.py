"""Initial weights: find the file, map its tensor names to ours, and report what was loaded."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from tabulate import tabulate
from torch import nn

from finetune.checkpoints.model_zoo import PUBLISHED, fetch
from finetune.checkpoints.reader import read_checkpoint
from finetune.errors import UserError

# torchvision's statistics of ImageNet, RGB on a scale of 0..1. 255 × the mean is Detectron2's PIXEL_MEAN.
_IMAGENET_STD = (0.229, 0.224, 0.225)

# the last layers, whose shape depends on the number of classes
_CLASS_HEADS = ("box_predictor.cls_score.", "box_predictor.bbox_pred.", "mask_head.predictor.")

_PARTS = {
    "backbone": "backbone.bottom_up.",
    "FPN": "backbone.fpn_",
    "RPN": "proposal_generator.",
    "box head": "roi_heads.box_",
    "mask head": "roi_heads.mask_",
}


@dataclass
class LoadReport:
    """What happened to each tensor; ``str(report)`` is the summary to print."""

    spec: str  # the value of --weights
    source: str  # the URL or file that it meant; "" for none
    loaded: list[str] = field(default_factory=list)  # names in the model
    missing: list[str] = field(default_factory=list)  # names in the model that the file lacks
    replaced: list[str] = field(default_factory=list)  # last layers with another number of classes
    skipped: list[str] = field(default_factory=list)  # names in the file that fit no tensor of the model
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Counts and notes for ``run.json``."""
        counts = {name: len(getattr(self, name)) for name in ("loaded", "missing", "replaced", "skipped")}
        return {"weights": self.spec, "source": self.source, **counts, "notes": self.notes}

    def __str__(self) -> str:
        columns = (self.loaded, self.missing, self.replaced)
        rows = [
            [part, *(sum(name.startswith(prefix) for name in names) for names in columns)]
            for part, prefix in (_PARTS | {"all": ""}).items()
        ]
        return "\n".join(
            [
                f"weights: {self.spec}" + (f" ({self.source})" if self.source not in ("", self.spec) else ""),
                tabulate(rows, headers=["tensors", "loaded", "missing (random)", "replaced (classes)"]),
                *self.notes,
            ]
        )


def load_weights(model: nn.Module, spec: str, backbone: str) -> LoadReport:
    """Load initial weights into a Mask R-CNN, in place.

    Known names and layouts: our own and Detectron2's (with or without ``backbone.bottom_up.``), Caffe2's, and
    torchvision's MobileNetV2. If the file has another number of classes, the last layers keep their initial values.
    ``resnet101_fpn`` can start from a ResNet-50: the blocks that the file lacks start as identity.

    Args:
        model: from ``detectron2.modeling.build_model``; its input is BGR, 0..255 minus the mean.
        spec: ``coco``, ``imagenet``, ``none``, a file (``.safetensors``, ``.pth``, ``.pkl``) or a URL.
        backbone: one of ``finetune.backbones.BACKBONES``.

    Raises:
        UserError: the file cannot be downloaded or read, or belongs to another backbone.
    """
    state = model.state_dict()
    if spec == "none":
        return LoadReport(spec, "", missing=list(state), notes=["nothing loaded: all weights are random"])
    path = fetch(spec, backbone)
    report = LoadReport(spec, PUBLISHED.get((backbone, spec), spec))
    tensors = to_our_names(read_checkpoint(path), backbone)
    found = _match(_separate(tensors, state), state, report)
    if not any(name.startswith(_PARTS["backbone"]) for name in found):
        raise UserError(f"{path} holds no tensor of {backbone}'s backbone: choose a checkpoint of that one")
    with torch.no_grad():
        for name, tensor in found.items():
            state[name].copy_(tensor)  # converts from half precision too
    report.loaded = list(found)
    absent = [name for name in state if name not in found and name not in report.replaced]
    # Caffe2 stores norms as scale and shift alone
    fused = {
        name
        for name in absent
        if name.endswith((".running_mean", ".running_var")) and f"{name.rpartition('.')[0]}.weight" in found
    }
    report.missing = [name for name in absent if name not in fused]
    blocks = _start_as_identity(state, report.missing) if backbone.startswith("resnet") else []
    notes = {
        f"{len(fused)} running statistics fused into scale and shift stay identity": fused,
        f"residual blocks that the file lacks start as identity: {_abbreviate(blocks)}": blocks,
        f"the file has other classes: {_abbreviate(report.replaced)} start at random": report.replaced,
        f"tensors of the file that fit nothing: {_abbreviate(report.skipped)}": report.skipped,
    }
    report.notes = [note for note, names in notes.items() if names]
    return report


def to_our_names(tensors: dict[str, torch.Tensor], backbone: str) -> dict[str, torch.Tensor]:
    """Rename a checkpoint's tensors to Detectron2's names; adapt torchvision's first convolution to our pixels.

    A name may still lack its prefix: ``res2.0.conv1.weight`` for ``backbone.bottom_up.res2.0.conv1.weight``.
    """
    if any(re.search(r"_(w|bn_s)$", name) for name in tensors):
        return convert_c2_detectron_names(tensors)[0]
    is_detector = any(name.startswith("backbone.") for name in tensors)
    if backbone == "mobilenetv2_fpn" and not is_detector:
        return mobilenetv2_from_torchvision(tensors)
    return tensors


def mobilenetv2_from_torchvision(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert torchvision's MobileNetV2 to ours: flat names, and a first convolution for Detectron2's pixels.

    torchvision feeds (RGB / 255 - mean) / std, Detectron2 feeds BGR - 255 × mean. Both are linear in the
    pixel, so flipping the first convolution's input channels and dividing them by 255 × std gives exactly the same
    output; at the borders too, because both pad with zeros after subtracting the mean.

    Args:
        tensors: ``mobilenet_v2().state_dict()`` or its ``features`` alone, with nested names
            (``features.2.conv.0.0.weight``) or, in old files, flat ones (``features.2.conv.0.weight``).
    """
    nested = any(re.search(r"\bconv\.0\.0\.weight$", name) for name in tensors)
    renamed = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(?:features\.)?(\d+\.\d+\.\w+|\d+\.conv\..+)", name)
        name = f"features.{match[1]}" if match else name
        renamed[_flatten(name) if nested else name] = tensor
    first = "features.0.0.weight"
    if first in renamed:
        std = torch.tensor(_IMAGENET_STD, dtype=torch.float64).view(1, 3, 1, 1)
        renamed[first] = (renamed[first] / (255 * std)).flip(1).to(renamed[first].dtype)
    return renamed


def _flatten(name: str) -> str:
    """``features.2.conv.1.0.weight`` (second group, its convolution) → ``features.2.conv.3.weight``."""
    if inner := re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(\d)\.(\w+)", name):
        block, group, index, kind = inner.groups()
        return f"features.{block}.conv.{3 * int(group) + int(index)}.{kind}"
    if outer := re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(\w+)", name):
        block, index, kind = outer.groups()
        groups = 1 if block == "1" else 2  # convolution, norm, ReLU6; block 1 does not expand
        return f"features.{block}.conv.{3 * groups + int(index) - groups}.{kind}"
    return name


def _separate(tensors: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Approximate a dense 3×3 convolution of the file where the model has a depthwise-separable one.

    Each input channel's filters, one per output channel, become multiples of the one filter that fits them best.
    """
    separated = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if f"{layer}.depthwise.weight" not in state:
            separated[name] = tensor
        elif kind == "bias":
            separated[f"{layer}.pointwise.bias"] = tensor
        else:
            filters = tensor.float().flatten(2).transpose(0, 1)  # (in, out, 9)
            left, sizes, right = torch.linalg.svd(filters, full_matrices=False)
            root = sizes[:, :1].sqrt()  # share the scale between the two
            separated[f"{layer}.pointwise.weight"] = (left[..., 0] * root).T[..., None, None]
            separated[f"{layer}.depthwise.weight"] = (right[:, 0] * root).view(-1, 1, 3, 3)
    return separated


def _match(
    tensors: dict[str, torch.Tensor], state: dict[str, torch.Tensor], report: LoadReport
) -> dict[str, torch.Tensor]:
    """Pair the file's tensors with the model's by full name, or by a suffix that is unique in the model."""
    by_suffix: dict[str, list[str]] = {}
    for name in state:
        parts = name.split(".")
        for i in range(len(parts)):
            by_suffix.setdefault(".".join(parts[i:]), []).append(name)
    found = {}
    for name, tensor in tensors.items():
        targets = [name] if name in state else by_suffix.get(name, [])
        if len(targets) != 1:
            # buffers that Detectron2 once saved and now computes
            if not re.search(r"num_batches_tracked$|pixel_(mean|std)$|anchor_generator\.cell_anchors", name):
                report.skipped.append(name)
            continue
        target = targets[0]
        if tensor.shape == state[target].shape:
            found[target] = tensor
        elif any(head in target for head in _CLASS_HEADS) and tensor.shape[1:] == state[target].shape[1:]:
            report.replaced.append(target)
        else:
            report.skipped.append(name)
    return found


def _start_as_identity(state: dict[str, torch.Tensor], missing: Iterable[str]) -> list[str]:
    """Let residual blocks that are missing pass their input on, so that later layers see familiar features.

    The usual way is to set the scale of a block's last norm to zero. Our norms are frozen, and with a frozen zero the
    block could never learn, so its last convolution is set to zero instead.

    Returns:
        The blocks' names.
    """
    blocks = []
    for name in missing:
        match = re.fullmatch(r"backbone\.bottom_up\.(res\d\.\d+)\.conv3\.weight", name)
        if match and f"backbone.bottom_up.{match[1]}.shortcut.weight" not in state:
            blocks.append(match[1])
            with torch.no_grad():
                state[name].zero_()
    return blocks


def _abbreviate(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
