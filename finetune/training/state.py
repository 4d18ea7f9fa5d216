"""What to train, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch.optim.swa_utils import AveragedModel

from finetune.data.dataset import class_names
from finetune.files import read_json
from finetune.training import optim
from finetune.training.machine import describe_machine, package_versions

COUNTERS = ("step", "best", "since_best", "seconds")  # of State; its other fields have state dicts


@dataclass(frozen=True)
class Job:
    """What to train. Plain values, so that a job can be sent to other processes."""

    backbone: str
    config: CfgNode
    data: Path
    run: Path
    resume: bool = False
    stop_after: int | None = None
    """Stop after this many steps as if interrupted; the schedule still spans SOLVER.MAX_ITER."""
    minutes: float | None = None  # fit the schedule of a new run to this time
    command: str = ""


@dataclass
class State:
    """Everything that changes from step to step; all of it is saved in ``last.pth``."""

    model: GeneralizedRCNN
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None  # with FINETUNE.EMA_DECAY above 0
    step: int = 0  # steps done
    best: dict[str, Any] | None = None  # iteration, segm_AP and bbox_AP of model_best.safetensors
    since_best: int = 0  # evaluations since then
    seconds: float = 0.0  # of training, over all resumptions

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return parts | {name: getattr(self, name) for name in COUNTERS}

    def snapshot(self) -> dict[str, Any]:
        """A copy of :meth:`state_dict` on the CPU, which the next step does not change."""
        return _copied(self.state_dict())

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        for name in COUNTERS:
            setattr(self, name, saved[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts | ({"average": self.average} if self.average else {})


def describe(job: Job, state: State) -> dict[str, Any]:
    """What ``run.json`` says about the run."""
    cfg = job.config
    return {
        "backbone": job.backbone,
        "classes": class_names(job.data),
        "data": read_json(job.data / "dataset.json"),
        "iterations": state.step,
        "planned_iterations": cfg.SOLVER.MAX_ITER,
        "seed": cfg.SEED,
        "precision": str(optim.autocast_dtype(cfg)).removeprefix("torch."),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(cfg.MODEL.DEVICE),
        "versions": package_versions(),
        "command": job.command,
        "best": state.best,
        "seconds": state.seconds,
    }


def _copied(state: Any) -> Any:
    """A copy of nested dicts and lists, with their tensors on the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state
