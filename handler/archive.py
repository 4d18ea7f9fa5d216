"""Read an unpacked model archive and check it: its card, its config, its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.errors import ArchiveError

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

FORMAT = 1
"""The archive layout that this code reads and ``finetune.export.archive`` writes (``format`` in ``archive.json``)."""


@dataclass(frozen=True)
class Archive:
    """An unpacked archive: ``card`` is ``archive.json``, ``cfg`` the Detectron2 config."""

    folder: Path
    card: dict[str, Any]
    cfg: CfgNode
    weights: Mapping[str, torch.Tensor]


def open_archive(folder: Path) -> Archive:
    """Open an unpacked archive and verify the weights against the SHA-256 in its card.

    Raises:
        ArchiveError: a part is missing, unreadable or of another format, or the weights are not those of the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from finetune.backbones import load_config

    card = read_card(folder)
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
        raise ArchiveError(
            f"model.safetensors is not a safetensors file ({error}): export it again"
        ) from error
    try:
        cfg = load_config(folder / "config.yaml")
    except Exception as error:  # yacs raises anything from KeyError to AssertionError
        raise ArchiveError(f"the archive's config.yaml cannot be read ({error}): export it again") from error
    if len(card["classes"]) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ArchiveError(
            f"archive.json names {len(card['classes'])} classes, but config.yaml says "
            f"MODEL.ROI_HEADS.NUM_CLASSES {cfg.MODEL.ROI_HEADS.NUM_CLASSES}: export it again"
        )
    return Archive(folder, card, cfg, weights)


def read_card(folder: Path) -> dict[str, Any]:
    """``archive.json`` of an unpacked archive.

    Raises:
        ArchiveError: it is missing, of another format, or incomplete.
    """
    try:
        card = json.loads((folder / "archive.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchiveError(
            f"this is not an archive of `maskrcnn export`: it has no archive.json ({error.strerror})"
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
