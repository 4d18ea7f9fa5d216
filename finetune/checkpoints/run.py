"""What a training leaves, as others may have it: the weights' file, the config, the record, the evaluation.

Read from a run folder, or from a checkpoint that ``publish`` wrote. The paths of the machine that trained do not
travel: what ``export`` and ``publish`` write holds file names only.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.checkpoints.run_folder import BEST
from finetune.errors import UserError
from finetune.files import read_json, sha256_of


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    weights: Path
    config: dict[str, Any]
    record: dict[str, Any]
    """``run.json``: backbone, classes, data, init, iterations, seed, machine, versions, command."""
    evaluation: dict[str, Any] | None
    """``{"split", "images", "bbox": {"AP": …}, "segm": {…}}`` of the last ``evaluate``, or None where there was none of
    these weights with this config.
    """


def read_trained(path: Path) -> Trained:
    """Open a run folder, or a published ``.safetensors`` checkpoint.

    Raises:
        UserError: there is none, it holds no weights yet, or a part of it is missing or damaged.
    """
    if path.is_file():
        from finetune.checkpoints.reader import read_metadata

        metadata = read_metadata(path)
        if not {"config", "run"} <= metadata.keys():
            raise UserError(
                f"{path} is a checkpoint without its config: give the run folder, or what `publish` made of it"
            )
        record = json.loads(metadata["run"])
        return Trained(path, yaml.safe_load(metadata["config"]), record, record.pop("evaluation", None))
    for name in (BEST, "config.yaml", "run.json"):
        if not (path / name).is_file():
            raise UserError(
                f"{path} has no {name}: train first (python -m finetune train), then give its run folder"
            )
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        for key in ("INIT", "TEACHER"):
            config["FINETUNE"][key] = file_name(config["FINETUNE"].get(key, ""))
        config["MODEL"]["WEIGHTS"] = config["OUTPUT_DIR"] = ""
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path / 'config.yaml'} is not a training config ({reason}): train again") from error
    record = read_json(path / "run.json")
    if not isinstance(record, dict) or not record.get("backbone") or not record.get("classes"):
        raise UserError(
            f"{path / 'run.json'} does not name a backbone and classes: it is damaged, train again"
        )
    return Trained(path / BEST, config, _portable(record), _evaluation(path))


def _portable(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the paths of the machine that trained."""
    record = dict(record)
    if init := record.get("init"):
        record["init"] = init | {key: file_name(init[key]) for key in ("weights", "source") if key in init}
    if command := record.get("command"):
        record["command"] = shlex.join(file_name(word) for word in shlex.split(command))
    return record


def file_name(word: str) -> str:
    """A path's last part; any other word, and a URL, as it is."""
    return word if "://" in word else word.rsplit("/", 1)[-1]


def _evaluation(run: Path) -> dict[str, Any] | None:
    """The numbers of ``evaluate``'s report, of the test split if there is one; None before any evaluation.

    A report of earlier weights, or with other settings, tells nothing of what is exported now.
    """
    sha256 = None
    for split in ("test", "val"):
        path = run / "evaluation" / split / "report.json"
        if path.is_file():
            report = json.loads(path.read_text(encoding="utf-8"))
            sha256 = sha256 or sha256_of(run / BEST)
            if report.get("weights_sha256") != sha256 or report.get("overrides"):
                continue
            summary: dict[str, Any] = {"split": split, "images": report.get("images")}
            for kind in ("bbox", "segm"):
                values = report.get(kind) or {}
                summary[kind] = {k: v for k, v in values.items() if v is None or isinstance(v, int | float)}
            return summary
    return None
