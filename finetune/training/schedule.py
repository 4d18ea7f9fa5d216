"""Fit the schedule of a training to a time: measure, and decide the number of steps before the first one.

The same keys given as overrides therefore lead to the same weights, and a resumed run has nothing to measure.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable
from statistics import mean

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from finetune.data.dataset import load_split
from finetune.errors import UserError
from finetune.evaluation.inference import predict
from finetune.training import optim
from finetune.training.dataloader import Record, training_loader
from finetune.training.state import Job, State

Learn = Callable[[list[Record], int], dict[str, torch.Tensor]]
WARM_UP, TIMED_STEPS, TIMED_PHOTOS = 2, 10, 3

# shares of the time
MEASURING = 0.04  # the most to time steps, and again to time photos
EVALUATING = 0.25  # the most for evaluations: a large val split gets fewer of them
RESERVE = 0.2  # steps take longer once the mask head has more proposals to learn from


def fit_to_time(job: Job, state: State, learn: Learn, false_scores: dict[str, float], started: float) -> None:
    """Set the schedule in the job's config, the same in all processes. The state is left as it was.

    Args:
        learn: takes a training step on a batch, given its number; returns the losses.
        false_scores: as for ``training_loader``.
        started: ``time.perf_counter()`` at which the job's minutes began.

    Raises:
        UserError: the time is too short.
    """
    cfg, before, budget = job.config, state.snapshot(), 60 * (job.minutes or 0)
    loader = training_loader(load_split(job.data, "train"), cfg, false_scores, 0, WARM_UP + TIMED_STEPS)
    with EventStorage():
        # `tolist` waits for a GPU
        steps = (torch.stack([*learn(batch, n).values()]).tolist() for n, batch in enumerate(loader))
        step = _mean_seconds(steps, MEASURING * budget)
    val_set, model = load_split(job.data, "val"), state.average.module if state.average else state.model
    with optim.autocast(cfg):
        photos = (predict(model, [photo], cfg) for photo in val_set[: WARM_UP + TIMED_PHOTOS])
        evaluation = _mean_seconds(photos, MEASURING * budget) * len(val_set)
    state.load_state_dict(before)
    left = budget - (time.perf_counter() - started)
    [measured, *_] = comm.all_gather((left, step, evaluation))
    fitted = fit_schedule(cfg, *measured)
    if comm.is_main_process():
        print(f"{job.minutes:g} minutes are enough for {fitted}", file=sys.stderr)


def fit_schedule(cfg: CfgNode, left: float, step: float, evaluation: float) -> str:
    """Fit SOLVER.MAX_ITER to the seconds left, given those of a step and an evaluation; stretch the rest alike.

    Returns:
        The numbers of steps and evaluations in words.

    Raises:
        UserError: there is no time for one of each.
    """
    solver, planned, usable = cfg.SOLVER, cfg.SOLVER.MAX_ITER, (1 - RESERVE) * left
    wanted = math.ceil(planned / cfg.TEST.EVAL_PERIOD) if cfg.TEST.EVAL_PERIOD > 0 else 1
    evaluations = max(1, min(wanted, int(EVALUATING * usable / evaluation)))
    steps = int((usable - evaluations * evaluation) / step)
    if steps < 1:
        raise UserError(
            f"--minutes is too short: a step takes {step:.1f} s here and an evaluation {evaluation:.1f} s; give more "
            "time, or shrink the work with FINETUNE.AUGMENT.CROP_SIZE 448"
        )
    factor = steps / planned
    solver.MAX_ITER = steps
    solver.WARMUP_ITERS = round(factor * solver.WARMUP_ITERS)
    solver.STEPS = tuple(round(factor * at) for at in solver.STEPS)
    solver.CHECKPOINT_PERIOD = math.ceil(factor * solver.CHECKPOINT_PERIOD)
    cfg.TEST.EVAL_PERIOD = math.ceil(steps / evaluations)
    times = f"{steps} steps of {step:.2g} s and {evaluations} evaluations of {evaluation:.2g} s"
    return f"{times}: SOLVER.MAX_ITER is {steps} instead of {planned}"


def _mean_seconds(work: Iterable[object], limit: float) -> float:
    """The mean seconds of the items of ``work`` after a warm-up, until ``limit`` seconds are over."""
    ends = [time.perf_counter()]
    for _ in work:
        ends.append(time.perf_counter())
        if any(comm.all_gather(ends[-1] - ends[0] > limit)):  # all processes leave at the same item
            break
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    return mean(seconds[WARM_UP:] or seconds[-1:])
