"""The recipe: fine-tune Mask R-CNN on a small data set. Read it from top to bottom, then copy it.

One process runs :func:`fine_tune` on a CPU or one GPU; :mod:`finetune.training.launch` starts several for several GPUs
or machines. All randomness in a step comes from a generator seeded by (seed, step), so a run that was stopped and
resumed ends with the same weights as one that was not; on a CPU, bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import finetune.backbones  # noqa: F401 - registers the backbones in every process
from finetune.checkpoints.initial_weights import load_weights
from finetune.checkpoints.run import Run
from finetune.data.dataset import class_names, load_split
from finetune.errors import UserError
from finetune.evaluation.inference import evaluate_model, predict, silence_known_warnings
from finetune.evaluation.plots import draw_training_curves
from finetune.files import locked, read_json, write_atomically, write_json
from finetune.training import optim
from finetune.training.dataloader import TrainingBatches, is_negative, training_loader
from finetune.training.interrupts import stop_signals
from finetune.training.machine import describe_machine, package_versions
from finetune.training.progress import Metrics, Progress

LOG_PERIOD = 10  # steps between two lines of metrics.json
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

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        for name in COUNTERS:
            setattr(self, name, saved[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts | ({"average": self.average} if self.average else {})


def fine_tune(job: Job) -> None:
    """Train, keep the best checkpoint by mask AP on the val split, and leave a complete run folder.

    Raises:
        UserError: the user can fix it.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the current step was finished and saved.
    """
    silence_known_warnings()
    main = comm.is_main_process()
    with locked(job.run) if main else contextlib.nullcontext():
        state, start = set_up(job)
        record = describe(job, state) | start
        if main:
            write_atomically(job.run / "config.yaml", lambda path: path.write_text(job.config.dump()))
            write_json(job.run / "run.json", record)
        train(job, state, record)


def set_up(job: Job) -> tuple[State, dict[str, Any]]:
    """Build the model and all that trains it, or load them from ``last.pth``.

    Returns:
        The state, and what ``run.json`` says about the initial weights: ``init`` and ``false_scores``.
    """
    cfg = job.config
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)
    saved = Run(job.run).load_last() if job.resume else None
    if saved:
        record = read_json(job.run / "run.json")
        start = {"init": record["init"], "false_scores": record["false_scores"]}
    else:
        start = {"init": initialize(model, job), "false_scores": mine_negatives(model, job)}
    state = State(
        model,
        optimizer=optim.build_optimizer(model, cfg),
        scaler=torch.amp.GradScaler(cfg.MODEL.DEVICE, enabled=optim.autocast_dtype(cfg) == torch.float16),
        average=optim.weight_average(model, cfg.FINETUNE.EMA_DECAY) if cfg.FINETUNE.EMA_DECAY > 0 else None,
    )
    if saved:
        state.load_state_dict(saved)
    return state, start


def train(job: Job, state: State, record: dict[str, Any]) -> None:
    """The training loop. All processes train; the main one also evaluates and writes."""
    cfg, end, main = job.config, job.config.SOLVER.MAX_ITER, comm.is_main_process()
    stop = min(end, state.step + job.stop_after) if job.stop_after else end
    train_set, val_set = load_split(job.data, "train"), load_split(job.data, "val")
    batches = TrainingBatches(
        train_set,
        cfg,
        false_scores=record["false_scores"],
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    loader = training_loader(batches, state.step, stop, cfg.DATALOADER.NUM_WORKERS)
    network = distribute(state.model, cfg)
    network.train()
    started = time.perf_counter() - state.seconds
    with (
        EventStorage(state.step) as storage,
        contextlib.closing(Metrics(job.run, state.step, quiet=not main)) as metrics,
        contextlib.closing(Progress(state.step, end, quiet=not main)) as progress,
        stop_signals() as signals,
    ):
        for step, batch in zip(range(state.step, stop), loader, strict=True):
            rate = optim.learning_rate(step, cfg)
            optim.set_learning_rate(state.optimizer, rate)
            losses = train_step(job, state, network, batch, step)
            state.step, state.seconds = step + 1, time.perf_counter() - started
            storage.put_scalars(**losses)
            storage.put_scalar("lr", rate, smoothing_hint=False)
            progress.show(state.step, losses["total_loss"])

            evaluated = due(state.step, cfg.TEST.EVAL_PERIOD, end)
            if evaluated and main:
                progress.say(evaluate(job, state, val_set, record["classes"]))
            if evaluated:
                state.since_best = comm.all_gather(state.since_best)[0]
            interrupted = any(comm.all_gather(bool(signals)))  # all processes leave at the same step
            converged = 0 < cfg.FINETUNE.PATIENCE <= state.since_best
            last = interrupted or converged or state.step == stop
            if last or evaluated or state.step % LOG_PERIOD == 0:
                metrics.write()
            if main and (last or due(state.step, cfg.SOLVER.CHECKPOINT_PERIOD, end)):
                save(job.run, state, record)
            storage.step()
            if interrupted:
                raise KeyboardInterrupt(
                    f"stopped at step {state.step}: continue with --resume --output {job.run}"
                )
            if converged:
                break


def train_step(
    job: Job, state: State, network: torch.nn.Module, batch: list[dict[str, Any]], step: int
) -> dict[str, float]:
    """One optimizer step on this process's share of the batch; return the losses, averaged over processes.

    Raises:
        UserError: the loss is NaN or infinite.
    """
    cfg = job.config
    # Detectron2 samples the proposals to learn from: let that, too, depend on the step alone
    torch.manual_seed(hash((cfg.SEED, step, comm.get_rank())))
    try:
        with optim.autocast(cfg):
            losses = network(batch)
    except FloatingPointError:  # Detectron2 raises this when the proposals are NaN or infinite
        raise diverged(job, step) from None
    state.optimizer.zero_grad()
    state.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average:
        state.average.update_parameters(state.model)
    values = {name: value.item() for name, value in comm.reduce_dict(losses).items()}
    values["total_loss"] = sum(values.values())
    if comm.is_main_process() and not math.isfinite(values["total_loss"]):
        raise diverged(job, step)
    return values


def evaluate(job: Job, state: State, val_set: list[dict[str, Any]], classes: list[str]) -> str:
    """Measure AP on the val split, with the averaged weights if there are any, and keep the best checkpoint.

    Returns:
        The result in one line.
    """
    model = state.average.module if state.average else state.model
    with optim.autocast(job.config):
        result = evaluate_model(model, val_set, classes, job.config)
    ap = result["segm"]["AP"] or 0.0  # None where the val split has no objects: all checkpoints are equal
    improved = state.best is None or ap > state.best["segm_AP"]
    if improved:
        state.best = {"iteration": state.step, "segm_AP": ap, "bbox_AP": result["bbox"]["AP"]}
        Run(job.run).save_best(model.state_dict())
    state.since_best = 0 if improved else state.since_best + 1
    for kind in ("segm", "bbox"):
        if (value := result[kind]["AP"]) is not None:
            get_event_storage().put_scalar(f"val/{kind}_AP", value, smoothing_hint=False)
    return f"step {state.step}: val segm AP {ap:.1f}{' (best)' if improved else ''}"


def save(run: Path, state: State, record: dict[str, Any]) -> None:
    """Write ``last.pth``, and bring ``run.json`` and ``curves.png`` up to date."""
    Run(run).save_last(state.state_dict())
    record |= {"iterations": state.step, "best": state.best, "seconds": round(state.seconds, 1)}
    write_json(run / "run.json", record)
    draw_training_curves(run)


# The rest are details of the above, in the order of their use.


def initialize(model: GeneralizedRCNN, job: Job) -> dict[str, Any]:
    """Load the weights to start from; return what ``run.json`` says about them.

    The main process goes first, since it may have to download them.
    """
    if not comm.is_main_process():
        comm.synchronize()
    loaded = load_weights(model, job.config.FINETUNE.INIT, job.backbone)
    if comm.is_main_process():
        print(loaded, file=sys.stderr)
        comm.synchronize()
    return loaded.to_dict()


def mine_negatives(model: GeneralizedRCNN, job: Job) -> dict[str, float]:
    """The best score of an object that the initial weights see in each training photo without one, by file name."""
    if not job.config.FINETUNE.HARD_NEGATIVES:
        return {}
    negatives = [record for record in load_split(job.data, "train") if is_negative(record)]
    scores = {record["image_id"]: 0.0 for record in negatives}
    if comm.is_main_process():
        for result in predict(model, negatives, job.config, progress=True)[0]:
            scores[result["image_id"]] = max(scores[result["image_id"]], round(result["score"], 4))
    [scores, *_] = comm.all_gather(scores)
    return {Path(record["file_name"]).name: scores[record["image_id"]] for record in negatives}


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


def distribute(model: GeneralizedRCNN, cfg: CfgNode) -> torch.nn.Module:
    """The model, wrapped to average gradients if there are several processes."""
    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if cfg.MODEL.DEVICE == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def due(done: int, period: int, end: int) -> bool:
    """Whether something happens after step ``done``: every ``period`` steps (0: never), and at the end."""
    return done == end or (period > 0 and done % period == 0)


def diverged(job: Job, step: int) -> UserError:
    return UserError(
        f"the loss is NaN or infinite at step {step}: lower SOLVER.BASE_LR, or look for degenerate boxes with "
        f"`maskrcnn data check {job.data}`"
    )
