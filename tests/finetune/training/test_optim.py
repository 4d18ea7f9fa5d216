"""The learning rate, the parameter groups, the average of the weights, and the versions that a run records."""

import itertools

import pytest
import torch

from finetune.configs.keys import get_config
from finetune.training.optim import (
    build_optimizer,
    device_type,
    learning_rate,
    set_learning_rate,
    weight_average,
)


@pytest.fixture
def cfg():
    keys = "SOLVER.BASE_LR 0.1 SOLVER.WARMUP_ITERS 10 SOLVER.MAX_ITER 100"
    return get_config("mobilenetv2_fpn", keys.split())


def test_learning_rate_rises_then_falls(cfg):
    rates = [learning_rate(step, cfg) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[9] == pytest.approx(0.098, abs=0.001)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[9:]))
    assert rates[99] < 0.0001


def test_steps_instead_of_the_cosine(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA = "WarmupMultiStepLR", (30, 60), 0.5
    assert [learning_rate(step, cfg) for step in (10, 29, 30, 60)] == pytest.approx([0.1, 0.1, 0.05, 0.025])


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Module()
        self.backbone.bottom_up = torch.nn.Linear(2, 2)
        self.head = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)


def test_groups(cfg):
    optimizer = build_optimizer(Toy(), cfg)
    set_learning_rate(optimizer, 1.0)
    found = {(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups}
    backbone = cfg.FINETUNE.BACKBONE_LR_FACTOR
    assert found == {(backbone, 0.01, 1), (backbone, 0.0, 1), (1.0, 0.01, 1), (1.0, 0.0, 1)}


def test_average_follows_the_weights():
    model = Toy()
    average = weight_average(model, decay=0.5)
    before = model.head.weight.detach().clone()
    average.n_averaged += 1000  # past the growth of the decay
    with torch.no_grad():
        model.head.weight += 1
    average.update_parameters(model)
    assert torch.allclose(average.module.head.weight, before + 0.5)


@pytest.mark.parametrize(("device", "kind"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda")])
def test_every_gpu_gets_the_fused_optimizer(cfg, device, kind):
    cfg.MODEL.DEVICE = device
    assert device_type(cfg) == kind
    (group,) = build_optimizer(torch.nn.Conv2d(3, 4, 3, bias=False), cfg).param_groups
    assert group["fused"] is (True if kind == "cuda" else None)
