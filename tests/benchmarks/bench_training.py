"""A training step on a processor: MobileNetV2's default there beside the wide network that a GPU trains.

All start from random weights and see the same drawn photos; steps are taken in turn, and the loader is left out (it
runs in processes of its own). The first row is what a processor trained in version 0.1.0: the wide network, in
the memory layout that torch has by default.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventStorage

from finetune.configs.keys import get_config
from finetune.data.dataset import load_split
from finetune.data.synthetic import make_synthetic
from finetune.training import recipe
from finetune.training.dataloader import training_loader
from finetune.training.launch import LEAN
from finetune.training.state import Job
from tests.benchmarks.measuring import alternate, summary

PHOTOS, BATCHES = 12, 4
WIDE, BEFORE = next(iter(LEAN)), f"{next(iter(LEAN))}, contiguous memory"


def rows_of(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """A row per config, from about ``seconds`` of timed steps."""
    data = folder / "data"
    make_synthetic(data, images=PHOTOS)
    jobs = {name: job_of(name, data, folder / name) for name in (WIDE, LEAN[WIDE])}
    with EventStorage():
        calls = {BEFORE: step_of(jobs[WIDE], torch.contiguous_format)}
        calls |= {name: step_of(job) for name, job in jobs.items()}
        times = alternate(calls, repeats=20, warm_up=1, limit=seconds)
    jobs[BEFORE] = jobs[WIDE]
    medians = {name: summary(each)["median_ms"] for name, each in times.items()}
    crops = {name: job.config.FINETUNE.AUGMENT.CROP_SIZE for name, job in jobs.items()}
    return [
        {
            "training": name,
            "crop": crops[name],
            "ms a step": medians[name],
            "steps a second, ×": medians[BEFORE] / medians[name],
            "pixels a second, ×": medians[BEFORE] / medians[name] * (crops[name] / crops[BEFORE]) ** 2,
        }
        for name in calls
    ]


def job_of(name: str, data: Path, run: Path) -> Job:
    overrides = "MODEL.DEVICE cpu FINETUNE.INIT none DATALOADER.NUM_WORKERS 0".split()
    return Job(WIDE, get_config(WIDE, overrides, name=name), data, run)


def step_of(job: Job, layout: torch.memory_format = torch.channels_last) -> Callable[[], object]:
    """A call that takes the next step of a training whose convolutions have this memory layout."""
    with contextlib.redirect_stderr(io.StringIO()):
        state, start = recipe.set_up(job)
    batches = list(
        training_loader(load_split(job.data, "train"), job.config, start["false_scores"], 0, BATCHES)
    )
    state.model.to(memory_format=layout).train()
    numbers = itertools.count()

    def step() -> dict[str, torch.Tensor]:
        number = next(numbers)
        return recipe.train_step(job, state, state.model, batches[number % BATCHES], number)

    return step
