"""Parameter groups, the learning rate as a function of the step, and an average of the weights."""

from __future__ import annotations

import contextlib
import math
from bisect import bisect_right
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from torch import nn

from finetune.errors import UserError


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """AdamW or SGD, with a smaller rate for the pretrained bottom-up part and no decay on biases.

    Reads SOLVER.BASE_LR, WEIGHT_DECAY, MOMENTUM and FINETUNE.OPTIMIZER, BACKBONE_LR_FACTOR.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = cfg.FINETUNE.BACKBONE_LR_FACTOR if ".bottom_up." in name else 1.0
        decay = 0.0 if parameter.ndim == 1 else cfg.SOLVER.WEIGHT_DECAY
        groups.setdefault((factor, decay), []).append(parameter)
    parameters = [
        {"params": group, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), group in groups.items()
    ]
    if cfg.FINETUNE.OPTIMIZER == "sgd":
        return torch.optim.SGD(parameters, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM)
    return torch.optim.AdamW(parameters, lr=cfg.SOLVER.BASE_LR)


def check_choices(cfg: CfgNode) -> None:
    """Refuse, before anything is loaded, a word that a key does not know.

    Raises:
        UserError: it names the key and what it knows.
    """
    known = {"OPTIMIZER": ("adamw", "sgd"), "AMP": ("auto", "off", "bf16", "fp16")}
    for key, words in known.items():
        if cfg.FINETUNE[key] not in words:
            raise UserError(f"FINETUNE.{key} is {cfg.FINETUNE[key]}: choose {', '.join(words)}")
    learning_rate(0, cfg)


def learning_rate(step: int, cfg: CfgNode) -> float:
    """Linear warm-up over SOLVER.WARMUP_ITERS, times what SOLVER.LR_SCHEDULER_NAME says.

    ``WarmupCosineLR``: a half cosine that ends near zero at SOLVER.MAX_ITER (Loshchilov & Hutter 2017,
    arXiv:1608.03983). ``WarmupMultiStepLR``: times SOLVER.GAMMA at each of SOLVER.STEPS. A function of the step alone,
    so there is no scheduler state to save.

    Raises:
        UserError: another name.
    """
    solver = cfg.SOLVER
    rate = solver.BASE_LR * min(1.0, (step + 1) / max(1, solver.WARMUP_ITERS))
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return rate * 0.5 * (1 + math.cos(math.pi * step / solver.MAX_ITER))
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        return rate * solver.GAMMA ** bisect_right(solver.STEPS, step)
    raise UserError(
        f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME}: choose WarmupCosineLR or WarmupMultiStepLR"
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


class WeightAverage:
    """Exponential moving average of a model's weights (Polyak averaging), kept beside the model.

    The decay grows from small values to its final one, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model's weights after optimiser step number ``step`` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Let the model hold the average for a while, for evaluation."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)
