"""A trained model on disk: a run folder, or one checkpoint file that carries its config."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError, safe_open

from finetune.errors import UserError
from finetune.files import read_json, reason_of, sha256_of, write_atomically

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode
    from detectron2.modeling import GeneralizedRCNN

LAST = "last.pth"
BEST = "model_best.safetensors"

_CHANGES_NO_PREDICTION = re.compile(r"MODEL\.(DEVICE|WEIGHTS)|TEST\.EVAL_PERIOD|.*_TRAIN")


class Run:
    """A run folder that ``train`` writes, or a checkpoint file that ``publish`` writes.

    ::

        run = Run.open(Path("runs/mobilenetv2_fpn"))
        run.classes, run.record["iterations"], run.evaluation
        model = run.load_model()

    Parts are read when first used; a missing or damaged one raises ``UserError``. A published file has config and
    record in its metadata (``config`` as YAML, ``run`` as JSON); other checkpoints (``.safetensors``, ``.pth``,
    ``.pkl``) need a ``config.yaml`` beside them. Paths of the machine that trained are shortened to file names.

    Args:
        path: a run folder or a checkpoint. The folder may still be empty: training fills it.
        overrides: ``KEY VALUE …`` on top of the recorded config.
    """

    def __init__(self, path: Path, overrides: Sequence[str] = ()) -> None:
        self.path = path
        self.overrides = list(overrides)
        self.folder = path.parent if path.is_file() else path
        self.name = path.stem if path.is_file() else path.resolve().name

    @classmethod
    def open(cls, path: Path, overrides: Sequence[str] = ()) -> Run:
        """A run that has weights, a config and no damaged record; any other raises ``UserError``."""
        run = cls(path, overrides)
        _ = run.weights, run.recorded_config, run.record
        return run

    # --- what training left ---------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> Path:
        """The checkpoint: the file itself, or the run folder's best one."""
        if self.path.is_file():
            return self.path
        if not self.path.is_dir():
            raise UserError(f"there is no run and no checkpoint at {self.path}: check the path of the run")
        if not (self.path / BEST).is_file():
            raise UserError(f"{self.path} holds no {BEST}: train until the first evaluation, or name a file")
        return self.path / BEST

    @cached_property
    def recorded_config(self) -> dict[str, Any]:
        """The training config as nested dicts, with its ``FINETUNE`` node and without overrides."""
        path = self.folder / "config.yaml"
        try:
            config = yaml.safe_load(self._metadata.get("config") or path.read_text(encoding="utf-8"))
            if "INIT" in config.get("FINETUNE", {}):
                config["FINETUNE"]["INIT"] = file_name(config["FINETUNE"]["INIT"])
            config["MODEL"]["WEIGHTS"] = config["OUTPUT_DIR"] = ""
        except FileNotFoundError:
            raise UserError(f"{self.path} has no config.yaml: put its run's config.yaml beside it") from None
        except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise self._unreadable_config(error) from None
        return config

    @cached_property
    def config(self) -> CfgNode:
        """The config to run the model with: Detectron2's defaults, the recorded config, the GPU if there is one, and
        the overrides.
        """
        import torch

        from finetune.backbones import build_config
        from finetune.configs.keys import override

        try:
            config = build_config(self.recorded_config)
        except (ValueError, KeyError, AssertionError, AttributeError) as error:
            raise self._unreadable_config(error) from None
        config.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        override(config, self.overrides)
        return config

    @cached_property
    def record(self) -> dict[str, Any]:
        """``run.json``: backbone, classes, data, init, iterations, seed, machine, versions, command; or {}."""
        path = self.folder / "run.json"
        record: Any = {}
        if "run" in self._metadata:
            record = json.loads(self._metadata["run"])
            for measured in ("evaluation", "operating_point"):
                record.pop(measured, None)
        elif path.is_file():
            record = read_json(path, cure="restore it, or train again")
        if not isinstance(record, dict):
            raise UserError(f"{path} cannot be read (it is no training record): restore it, or train again")
        record.pop("false_scores", None)  # a resumed training alone reads them
        if init := record.get("init"):
            record["init"] = {key: file_name(v) if isinstance(v, str) else v for key, v in init.items()}
        if command := record.get("command"):
            record["command"] = shlex.join(map(file_name, shlex.split(command)))
        return record

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """The last ``evaluate`` of these weights: ``{"split", "images", "bbox": {"AP": …}, "segm": {…}}``.

        Of the test split if it was measured, else of val; None if there is none with this config.
        """
        if "run" in self._metadata:
            return None if self.changed_config else self.published("evaluation")
        for split in ("test", "val"):
            path = self.path / "evaluation" / split / "report.json"
            report = read_json(path, cure="evaluate again") if path.is_file() else {}
            if self.holds(report):
                figures = {
                    kind: {
                        key: value for key, value in (report.get(kind) or {}).items() if key.startswith("AP")
                    }
                    for kind in ("bbox", "segm")
                }
                return {"split": split, "images": report.get("images"), **figures}
        return None

    def beside(self, name: str) -> Path:
        """Where a file about these weights is kept: in the run folder, or as STEM.name beside the checkpoint."""
        return self.folder / (name if self.path.is_dir() else f"{self.name}.{name}")

    def published(self, key: str) -> Any:
        """What ``publish`` wrote into the file, such as ``evaluation``; None in a run folder."""
        return json.loads(self._metadata.get("run", "{}")).get(key)

    @cached_property
    def changed_config(self) -> dict[str, Any]:
        """The overrides that change predictions, as key → value: the input size does, the device does not."""
        if not self.overrides:
            return {}
        ours, trained = (yaml.safe_load(run.config.dump()) for run in (self, Run(self.path)))
        values = {
            key: [reduce(getitem, key.split("."), config) for config in (ours, trained)]
            for key in sorted(self.overrides[::2])
            if key.startswith(("INPUT.", "MODEL.", "TEST.")) and not _CHANGES_NO_PREDICTION.fullmatch(key)
        }
        return {key: now for key, (now, before) in values.items() if now != before}

    @cached_property
    def measured_with(self) -> dict[str, Any]:
        """The weights and the config, to write beside what was measured with them."""
        return {"weights_sha256": sha256_of(self.weights), "changed_config": self.changed_config}

    def holds(self, measured: Mapping[str, Any]) -> bool:
        """Whether it was measured with these weights and this config, by its ``measured_with``."""
        return measured.items() >= self.measured_with.items()

    @property
    def classes(self) -> list[str] | None:
        """The class names in the order of the class ids; None if nothing beside the checkpoint names them."""
        if "classes" in self._metadata:
            return json.loads(self._metadata["classes"])
        return self.record.get("classes")

    def check_classes(self, data: Path, classes: Sequence[str]) -> None:
        """Refuse a data set whose ``classes`` are not those of the run, in the same order; raises ``UserError``."""
        if self.classes != classes:
            raise UserError(
                f"{self.path} was trained on the classes {', '.join(self.classes or [])}, but {data} has "
                f"{', '.join(classes)}: give a data set with the same classes"
            )

    @property
    def backbone(self) -> str:
        """Our name of the config's backbone."""
        from finetune.backbones import backbone_of

        try:
            return backbone_of(self.recorded_config)
        except (KeyError, TypeError):
            raise UserError(f"the config of {self.path} names none of our backbones: train again") from None

    def load_model(self) -> GeneralizedRCNN:
        """Build the model with its weights, in evaluation mode, on the config's device.

        Raises:
            UserError: the checkpoint does not fill the model completely.
        """
        from detectron2.modeling import build_model

        from finetune.checkpoints.initial_weights import load_weights

        weights, config, backbone = self.weights, self.config, self.backbone
        model = build_model(config).eval()
        report = load_weights(model, str(weights), backbone)
        if unfilled := report.missing + report.replaced:
            raise UserError(
                f"{weights} does not fit its config: {len(unfilled)} tensors such as {unfilled[0]} are missing or of "
                "another shape; use the config.yaml that it was trained with"
            )
        return model

    # --- what training writes -------------------------------------------------------------------------------

    def save_best(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Write ``model_best.safetensors``."""
        from safetensors.torch import save_file

        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        write_atomically(self.path / BEST, lambda path: save_file(tensors, path, {"format": "pt"}))

    def save_last(self, state: Mapping[str, Any]) -> None:
        """Write ``last.pth``: everything that ``--resume`` needs."""
        import torch

        write_atomically(self.path / LAST, lambda path: torch.save(state, path))

    def load_last(self) -> dict[str, Any]:
        """Read ``last.pth``, with tensors on the CPU, without running code from it."""
        import torch

        path = self.path / LAST
        if not path.exists():
            raise UserError(f"{self.path} holds no {LAST} to resume from: start a new run without --resume")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
            raise UserError(
                f"{path} is damaged: start a new run from the best checkpoint, with --weights {self.path / BEST}"
            ) from error

    @cached_property
    def _metadata(self) -> dict[str, str]:
        """The metadata of a ``.safetensors`` file; empty for a run folder and other files."""
        if not self.path.is_file() or self.path.suffix != ".safetensors":
            return {}
        try:
            with safe_open(str(self.path), "np") as file:
                return file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{self.path} cannot be read as safetensors ({reason_of(error)}): fetch or save it again"
            ) from None

    def _unreadable_config(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())
        return UserError(f"config.yaml of {self.path} cannot be read ({reason}): restore it, or train again")


def file_name(word: str) -> str:
    """The last part of a path; any other word, and a URL, unchanged."""
    return word if "://" in word else word.rsplit("/", 1)[-1]
