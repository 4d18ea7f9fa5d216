"""The training state, the log of the losses, and a checkpoint that cannot be written."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from finetune.errors import UserError
from finetune.training import recipe
from finetune.training.recipe import Job, log_losses
from finetune.training.state import State
from tests.finetune.training.test_training import FOUR_STEPS, arguments, train


def test_a_checkpoint_that_cannot_be_written_stops_the_training(data, tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(recipe, "save", fail)
    assert train(arguments(data, tmp_path / "run", f"{FOUR_STEPS} SOLVER.CHECKPOINT_PERIOD 1")) == 1
    captured = capsys.readouterr()
    assert "the disk is full" in captured.err
    assert "step 4" not in captured.err, "stopped by the next checkpoint, not at the end"


def test_a_snapshot_is_not_changed_by_the_next_step():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = State(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), None, best={"segm_AP": 1.0})
    for _ in range(2):
        before, known = state.snapshot(), [value.clone() for value in model.parameters()]
        model(torch.ones(2)).sum().backward()
        optimizer.step()
        state.best["segm_AP"] += 1
    assert torch.equal(before["model"]["weight"], known[0])
    assert not torch.equal(model.weight, known[0])
    assert before["optimizer"]["state"][0]["step"] == 1
    assert before["best"] == {"segm_AP": 2.0}


def test_losses_read_together_are_logged_step_by_step(tmp_path):
    job = Job("mobilenetv2_fpn", None, tmp_path, tmp_path)
    steps = [{"a": torch.tensor(1.0), "b": torch.tensor(float(i))} for i in range(3)]
    with EventStorage(7) as storage:
        assert log_losses(job, steps, 8) == 3.0
        history = storage.history("total_loss").values()
        assert [(value, step) for value, step in history] == [(1.0, 5), (2.0, 6), (3.0, 7)]
        steps[1]["b"] *= float("nan")
        with pytest.raises(UserError, match="at step 6: lower"):
            log_losses(job, steps, 8)
