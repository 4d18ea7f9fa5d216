"""The config of a training run: Detectron2's, our backbones' nodes, and the ``FINETUNE`` node."""

import difflib
from ast import literal_eval
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from finetune.backbones import BACKBONES, add_backbone_config
from finetune.errors import UserError

CONFIGS = Path(__file__).parent

_KINDS = {bool: "true or false,", int: "a whole number", float: "a number", list: "a list", tuple: "a list"}


def add_finetune_config(cfg: CfgNode) -> None:
    """Add the ``FINETUNE`` node, for what Detectron2 has no key for, in place. README.md documents every key."""
    cfg.FINETUNE = CfgNode()
    cfg.FINETUNE.INIT = "coco"  # coco | imagenet | none | PATH | URL
    cfg.FINETUNE.OPTIMIZER = "adamw"  # adamw | sgd
    cfg.FINETUNE.BACKBONE_LR_FACTOR = 0.33  # times SOLVER.BASE_LR
    cfg.FINETUNE.PATIENCE = 0  # evaluations without a better segm AP; 0 = never stop early
    cfg.FINETUNE.EMA_DECAY = 0.0  # 0 = no moving average of the weights
    # of a batch: photos without an object; -1 = each as often as any other photo
    cfg.FINETUNE.NEGATIVE_SHARE = -1.0
    # how much more often a photo is drawn in which the initial weights are sure of an object; 0 = mine none
    cfg.FINETUNE.HARD_NEGATIVES = 0.0
    cfg.FINETUNE.REPEAT_THRESHOLD = 0.0  # share of photos below which a class is rare; 0 = no repeats
    cfg.FINETUNE.AMP = "auto"  # auto | off | bf16 | fp16

    cfg.FINETUNE.AUGMENT = CfgNode()
    # large-scale jitter (Ghiasi et al. 2021, arXiv:2012.07177): scale the photo, then crop or pad it to a square
    cfg.FINETUNE.AUGMENT.SCALE_MIN = 0.5  # at 1 the photo just fits into the crop
    cfg.FINETUNE.AUGMENT.SCALE_MAX = 2.0
    cfg.FINETUNE.AUGMENT.TILE = 0  # side in pixels of what fits into the crop at 1; 0 = the photo
    cfg.FINETUNE.AUGMENT.CROP_SIZE = 640  # pixels
    cfg.FINETUNE.AUGMENT.FLIP = 0.5  # probability
    cfg.FINETUNE.AUGMENT.BRIGHTNESS = 0.3  # a factor from [1 - x, 1 + x], as for the next two
    cfg.FINETUNE.AUGMENT.CONTRAST = 0.3
    cfg.FINETUNE.AUGMENT.SATURATION = 0.3
    cfg.FINETUNE.AUGMENT.HUE = 0.05  # a shift from [-x, x], in turns of the color wheel
    cfg.FINETUNE.AUGMENT.COPY_PASTE = 0.0  # probability


def default_config() -> CfgNode:
    """Detectron2's defaults, with the nodes of our backbones and of training."""
    cfg = get_cfg()
    add_backbone_config(cfg)
    add_finetune_config(cfg)
    return cfg


def get_config(backbone: str, overrides: Sequence[str] = (), *, name: str = "") -> CfgNode:
    """Return the config of one backbone's YAML with ``KEY VALUE`` overrides on top.

    ``name`` is the YAML's, where it is not the backbone's own: ``mobilenetv2_fpn_cpu``.

    >>> cfg = get_config("mobilenetv2_fpn", ["SOLVER.MAX_ITER", "100", "MODEL.FPN.OUT_CHANNELS", "128"])

    Raises:
        UserError: unknown backbone, unknown key (the nearest is named), or a value of the wrong type.
    """
    if backbone not in BACKBONES:
        raise UserError(f"there is no backbone {backbone!r}: choose one of {', '.join(BACKBONES)}")
    cfg = default_config()
    cfg.merge_from_file(str(CONFIGS / f"{name or backbone}.yaml"), allow_unsafe=False)
    override(cfg, overrides)
    return cfg


def read_config(path: Path) -> CfgNode:
    """Return the training config that a run folder's ``config.yaml`` holds.

    Raises:
        UserError: it is damaged, or has a key that this version lacks.
    """
    cfg = default_config()
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (OSError, ValueError, KeyError, AssertionError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is not a config of this version ({reason}): start a new run, with --weights for the old one's "
            "checkpoint"
        ) from None
    return cfg


def override(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Apply ``KEY VALUE KEY VALUE …`` to ``cfg``, in place.

    Raises:
        UserError: a key without a value, an unknown key, or a value of the wrong type.
    """
    if len(overrides) % 2:
        raise UserError(f"config overrides are KEY VALUE pairs, but {overrides[-1]!r} has no value")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        known = dict(leaves(cfg))
        if key not in known:
            nearest = difflib.get_close_matches(key.upper(), known, n=1, cutoff=0.0)
            raise UserError(f"there is no config key {key}: did you mean {nearest[0]}?")
        *nodes, leaf = key.split(".")
        reduce(getitem, nodes, cfg)[leaf] = _parse(key, text, known[key])


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key, as written on the command line, with its value."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parse(key: str, text: str, old: object) -> object:
    """Read ``text`` as the type of ``old``: ``1`` as a float, ``true`` as a bool, ``[1, 2]`` as a tuple."""
    try:
        value = literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, str):
        return value if isinstance(value, str) else text
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        return type(old)(value)
    if old is not None and type(value) is not type(old):
        kind = _KINDS.get(type(old), "a value")
        raise UserError(f"config key {key} takes {kind} such as {old!r}, not {text!r}")
    return value
