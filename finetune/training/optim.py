"""Precision, parameter groups, the learning-rate schedule, and the average of the weights."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import reduce
from operator import getitem

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel

from finetune.errors import UserError
from finetune.training.machine import supports_bfloat16

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

CHOICES = {
    "FINETUNE.OPTIMIZER": ("adamw", "sgd"),
    "FINETUNE.AMP": ("auto", "off", "bf16", "fp16"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupCosineLR", "WarmupMultiStepLR"),
}


def check_choices(cfg: CfgNode) -> None:
    """Refuse unknown values of ``CHOICES``, and a precision that the device cannot train in.

    Raises:
        UserError: it names the key and the values that it takes.
    """
    for key, known in CHOICES.items():
        value = reduce(getitem, key.split("."), cfg)
        if value not in known:
            raise UserError(f"{key} is {value}: choose one of {', '.join(known)}")
    if cfg.FINETUNE.AMP == "fp16" and device_type(cfg) == "cpu":
        raise UserError("FINETUNE.AMP fp16 does not train on a CPU: choose auto, bf16 or off")


def device_type(cfg: CfgNode) -> str:
    """``cpu`` or ``cuda``, also where MODEL.DEVICE is ``cuda:1``."""
    return torch.device(cfg.MODEL.DEVICE).type


def autocast_dtype(cfg: CfgNode) -> torch.dtype:
    """The precision to train in, from FINETUNE.AMP; ``auto`` takes bfloat16 where the hardware has it."""
    amp, device = cfg.FINETUNE.AMP, cfg.MODEL.DEVICE
    if amp == "auto":
        if supports_bfloat16(device):
            return torch.bfloat16
        return torch.float32 if device_type(cfg) == "cpu" else torch.float16
    return {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def autocast(cfg: CfgNode) -> torch.autocast:
    """Run convolutions and matrix products within the block in the precision of FINETUNE.AMP."""
    dtype = autocast_dtype(cfg)
    return torch.autocast(device_type(cfg), dtype, enabled=dtype != torch.float32)


def build_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """AdamW or SGD, with a lower rate for the pretrained bottom-up network and no decay on biases and norms.

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
    fused = None if device_type(cfg) == "cpu" else True  # None: torch chooses
    return torch.optim.AdamW(parameters, lr=cfg.SOLVER.BASE_LR, fused=fused)


def learning_rate(step: int, cfg: CfgNode) -> float:
    """Linear warm-up over SOLVER.WARMUP_ITERS, times the schedule of SOLVER.LR_SCHEDULER_NAME.

    ``WarmupCosineLR``: a half cosine that ends near zero at SOLVER.MAX_ITER (Loshchilov & Hutter 2017,
    arXiv:1608.03983). ``WarmupMultiStepLR``: times SOLVER.GAMMA at each of SOLVER.STEPS. A function of the step alone,
    so there is no scheduler state to save.
    """
    solver = cfg.SOLVER
    rate = solver.BASE_LR * min(1.0, (step + 1) / max(1, solver.WARMUP_ITERS))
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return rate * 0.5 * (1 + math.cos(math.pi * step / solver.MAX_ITER))
    return rate * solver.GAMMA ** bisect_right(solver.STEPS, step)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every parameter group's rate to ``rate`` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def weight_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a model's weights (Polyak averaging).

    The decay grows from small values to its final one, so that the first weights are soon forgotten.
    """

    def move(averages: Tensors, weights: Tensors, _: torch.Tensor | int) -> None:
        count = int(average.n_averaged)  # the original lies on the CPU; the argument may be a copy on the GPU
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + count) / (10 + count)))

    average = AveragedModel(model, multi_avg_fn=move)  # `move` reads it
    return average
