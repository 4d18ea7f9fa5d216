"""The learning rate, the parameter groups and the average of the weights."""

import itertools

import pytest
import torch

from finetune.configs.keys import get_config
from finetune.errors import UserError
from finetune.training.optim import WeightAverage, build_optimizer, learning_rate, set_learning_rate


@pytest.fixture
def cfg():
    return get_config(
        "mobilenetv2_fpn", ["SOLVER.BASE_LR", "0.1", "SOLVER.WARMUP_ITERS", "10", "SOLVER.MAX_ITER", "100"]
    )


def test_learning_rate_rises_then_falls(cfg):
    rates = [learning_rate(step, cfg) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[9] == pytest.approx(0.098, abs=0.001)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[9:]))
    assert rates[99] < 0.0001


def test_steps_instead_of_the_cosine(cfg):
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA = "WarmupMultiStepLR", (30, 60), 0.5
    assert [learning_rate(step, cfg) for step in (10, 29, 30, 60)] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupLR"
    with pytest.raises(UserError, match="choose WarmupCosineLR"):
        learning_rate(0, cfg)


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


def test_average_follows_and_is_put_back():
    model = Toy()
    average = WeightAverage(model, decay=0.5)
    before = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight += 1
    average.update(model, step=1000)
    with average.applied_to(model):
        assert torch.allclose(model.head.weight, before + 0.5)
    assert torch.allclose(model.head.weight, before + 1)
