"""Read an unpacked model archive: its card, its config, its weights; believe none of them before checking."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from detectron2.config import CfgNode

FORMAT = 1
"""The archive layout that this code reads and ``finetune.export.archive`` writes (``format`` in ``archive.json``)."""


class ArchiveError(Exception):
    """The archive cannot be served; the message is one sentence that says why and what to do."""


@dataclass(frozen=True)
class Archive:
    """Who the model is (``card``), how it is built (``cfg``), what it learned (``weights``)."""

    folder: Path
    card: dict[str, Any]
    cfg: CfgNode
    weights: Mapping[str, torch.Tensor]


def open_archive(folder: Path) -> Archive:
    """Open an unpacked archive and verify the weights against the SHA-256 in its card.

    Raises:
        ArchiveError: a part is missing, unreadable, of another format, or the weights are not the recorded
        ones.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from finetune.backbones import load_config

    card = _read_card(folder / "archive.json")
    try:
        data = (folder / "model.safetensors").read_bytes()
    except OSError as error:
        raise ArchiveError(
            f"the archive has no readable model.safetensors ({error.strerror}): export it again"
        ) from error
    if hashlib.sha256(data).hexdigest() != card["weights_sha256"]:
        raise ArchiveError(
            "model.safetensors is not the file whose SHA-256 archive.json records: export it again"
        )
    try:
        weights = load(data)
    except SafetensorError as error:
        raise ArchiveError(f"model.safetensors is no safetensors file ({error}): export it again") from error
    try:
        cfg = load_config(folder / "config.yaml")
    except Exception as error:  # yacs answers a bad config with anything from KeyError to AssertionError
        raise ArchiveError(f"the archive's config.yaml cannot be read ({error}): export it again") from error
    if len(card["classes"]) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ArchiveError(
            f"archive.json names {len(card['classes'])} classes, but config.yaml says "
            f"MODEL.ROI_HEADS.NUM_CLASSES {cfg.MODEL.ROI_HEADS.NUM_CLASSES}: export it again"
        )
    return Archive(folder, card, cfg, weights)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchiveError(
            f"this is no model archive of ours: it has no archive.json ({error.strerror})"
        ) from error
    except ValueError as error:
        raise ArchiveError(f"archive.json is not JSON ({error}): export the archive again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ArchiveError(
            f"archive.json is not of format {FORMAT}, the one this handler reads: export it again"
        )
    if missing := {"name", "version", "backbone", "classes", "weights_sha256"} - card.keys():
        raise ArchiveError(f"archive.json lacks {', '.join(sorted(missing))}: export the archive again")
    return card
