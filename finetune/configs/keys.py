"""The config of a training run: Detectron2's, our backbones' nodes, and the ``FINETUNE`` node."""

import difflib
from ast import literal_eval
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from finetune.backbones import BACKBONES, add_backbone_config
from finetune.errors import UserError

CONFIGS = Path(__file__).parent


def add_finetune_config(cfg: CfgNode) -> None:
    """Add the ``FINETUNE`` node (what Detectron2 has no key for) with its defaults, in place."""
    cfg.FINETUNE = CfgNode()
    cfg.FINETUNE.INIT = "coco"  # coco | imagenet | none | PATH | URL
    cfg.FINETUNE.TEACHER = (
        ""  # a run or published checkpoint whose feature maps are imitated first; "" = none
    )
    cfg.FINETUNE.TEACHER_STEPS = 500  # how many of SOLVER.MAX_ITER that takes
    cfg.FINETUNE.OPTIMIZER = "adamw"  # adamw | sgd
    cfg.FINETUNE.BACKBONE_LR_FACTOR = 0.33  # learning rate of the pretrained backbone, as a share of BASE_LR
    cfg.FINETUNE.PATIENCE = 0  # stop after so many evaluations without a better segm AP; 0 = never
    cfg.FINETUNE.EMA_DECAY = 0.0  # exponential moving average of the weights; 0 = off
    cfg.FINETUNE.AMP = "auto"  # auto | off | bf16 | fp16; auto = bf16 where the processor or GPU has it
    cfg.FINETUNE.SYNTHETIC_FRACTION = 0.0  # share of drawn pictures mixed into training

    cfg.FINETUNE.AUGMENT = CfgNode()
    # large-scale jitter (Ghiasi et al. 2021): the photo is scaled by a factor from [min, max] relative to the
    # crop, then a square crop of this size is cut or padded
    cfg.FINETUNE.AUGMENT.SCALE_MIN = 0.5
    cfg.FINETUNE.AUGMENT.SCALE_MAX = 2.0
    cfg.FINETUNE.AUGMENT.CROP_SIZE = 640
    cfg.FINETUNE.AUGMENT.FLIP = 0.5  # probability of a horizontal flip
    cfg.FINETUNE.AUGMENT.BRIGHTNESS = 0.3  # factor from [1 - x, 1 + x]; the same for the next two
    cfg.FINETUNE.AUGMENT.CONTRAST = 0.3
    cfg.FINETUNE.AUGMENT.SATURATION = 0.3
    cfg.FINETUNE.AUGMENT.HUE = 0.05  # shift from [-x, x] turns of the colour circle
    cfg.FINETUNE.AUGMENT.COPY_PASTE = 0.0  # probability of pasting another photo's instances


def get_config(backbone: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Return the config of one backbone's YAML with ``KEY VALUE`` overrides on top.

    >>> cfg = get_config("mobilenetv2_fpn", ["SOLVER.MAX_ITER", "100", "MODEL.FPN.OUT_CHANNELS", "128"])

    Raises:
        UserError: unknown backbone, unknown key (the nearest one is named), or a value of another type.
    """
    if backbone not in BACKBONES:
        raise UserError(f"there is no backbone {backbone!r}: choose one of {', '.join(BACKBONES)}")
    cfg = get_cfg()
    add_backbone_config(cfg)
    add_finetune_config(cfg)
    cfg.merge_from_file(str(CONFIGS / f"{backbone}.yaml"), allow_unsafe=False)
    override(cfg, overrides)
    return cfg


def read_config(path: Path) -> CfgNode:
    """Return the config that a run folder's ``config.yaml`` holds."""
    cfg = get_cfg()
    add_backbone_config(cfg)
    add_finetune_config(cfg)
    cfg.merge_from_file(str(path), allow_unsafe=False)
    return cfg


def override(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Apply a ``KEY VALUE KEY VALUE …`` list to ``cfg``, in place.

    Raises:
        UserError: odd length, unknown key, or a value whose type is not the key's.
    """
    if len(overrides) % 2:
        raise UserError(f"config overrides come as KEY VALUE pairs, but {overrides[-1]!r} has no value")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        known = dict(_leaves(cfg))
        if key not in known:
            nearest = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.0)
            raise UserError(f"there is no config key {key}: did you mean {nearest[0]}?")
        _set(cfg, key, _parse(key, text, known[key]))


def _leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parse(key: str, text: str, old: object) -> object:
    """Read ``text`` as the type of ``old``: ``1`` is a fine float, ``true`` a bool, ``[1, 2]`` a tuple."""
    if isinstance(old, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, str):
        return value if isinstance(value, str) else text
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        return type(old)(value)
    if old is not None and type(value) is not type(old):
        raise UserError(f"config key {key} takes a {type(old).__name__} such as {old!r}, not {text!r}")
    return value


def _set(cfg: CfgNode, key: str, value: object) -> None:
    *nodes, leaf = key.split(".")
    for node in nodes:
        cfg = cfg[node]
    cfg[leaf] = value
