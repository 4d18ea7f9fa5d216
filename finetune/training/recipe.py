"""The recipe: from photos to a fine-tuned Mask R-CNN, to be read from top to bottom and copied.

One process runs :func:`fine_tune` on a CPU or one GPU; :mod:`finetune.training.launch` starts several of them for
several GPUs or machines. All that is random in step number *n* is drawn from a generator seeded by (seed, n), so a
run that was stopped and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter
from torch.nn.parallel import DistributedDataParallel

import finetune.backbones  # noqa: F401 - registers the backbones in every process
from finetune.checkpoints.initial_weights import load_weights
from finetune.checkpoints.run import Run
from finetune.data.dataset import class_names, load_split
from finetune.errors import UserError
from finetune.evaluation.inference import evaluate_model
from finetune.evaluation.plots import draw_training_curves
from finetune.files import locked, read_json, write_atomically, write_json
from finetune.training.dataloader import TrainingBatches, training_loader
from finetune.training.machine import describe_machine, package_versions, supports_bfloat16
from finetune.training.metrics import drop_metrics_from, write_metrics
from finetune.training.optim import WeightAverage, build_optimizer, learning_rate, set_learning_rate
from finetune.training.progress import Progress
from finetune.training.teacher import Teacher

LOG_PERIOD = 10  # steps between two lines of metrics.json


@dataclass(frozen=True)
class Job:
    """What one training is to do. Plain values, so that it can be sent to other processes."""

    backbone: str
    config: CfgNode
    data: Path
    run: Path
    resume: bool = False
    stop_after: int | None = None
    """Stop after so many steps as if interrupted; the schedule still spans SOLVER.MAX_ITER."""
    command: str = ""


def fine_tune(job: Job) -> None:
    """Train, keep the best checkpoint by mask AP on the val split, and leave the run folder complete.

    Raises:
        UserError: for everything that the user can mend.
    """
    # torch warns, in every run, that a function that Detectron2 calls will get another name
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
    with locked(job.run) if comm.is_main_process() else contextlib.nullcontext():
        _fine_tune(job, job.config)


def _fine_tune(job: Job, cfg: CfgNode) -> None:
    main = comm.is_main_process()
    classes = class_names(job.data)
    train_set, val_set = load_split(job.data, "train"), load_split(job.data, "val")

    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)
    run = Run(job.run)
    state = run.load_last() if job.resume else None
    start = state["step"] if state else 0
    hints_end = cfg.FINETUNE.TEACHER_STEPS if cfg.FINETUNE.TEACHER else 0
    teacher = Teacher(Path(cfg.FINETUNE.TEACHER), model) if start < hints_end else None
    init = read_json(job.run / "run.json")["init"] if job.resume else _initialise(model, teacher, job)
    trained: torch.nn.Module = model
    if comm.get_world_size() > 1:
        devices = [comm.get_local_rank()] if cfg.MODEL.DEVICE == "cuda" else None
        trained = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)

    optimizer = build_optimizer(model, cfg)
    dtype = autocast_dtype(cfg)
    scaler = torch.amp.GradScaler(cfg.MODEL.DEVICE, enabled=dtype == torch.float16)
    average = WeightAverage(model, cfg.FINETUNE.EMA_DECAY)
    best, since_best, seconds = None, 0, 0.0
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        average.weights = {name: value.to(model.device) for name, value in state["average"].items()}
        best, since_best, seconds = state["best"], state["since_best"], state["seconds"]
    end = cfg.SOLVER.MAX_ITER
    stop = min(end, start + job.stop_after) if job.stop_after else end

    record = {
        "backbone": job.backbone,
        "classes": classes,
        "data": read_json(job.data / "dataset.json"),
        "init": init,
        "iterations": start,
        "planned_iterations": end,
        "seed": cfg.SEED,
        "precision": str(dtype).removeprefix("torch."),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(cfg.MODEL.DEVICE),
        "versions": package_versions(),
        "command": job.command,
        "best": best,
        "seconds": seconds,
    }
    writers: list[Any] = []
    if main:
        write_atomically(job.run / "config.yaml", lambda path: path.write_text(cfg.dump()))
        write_json(job.run / "run.json", record)
        drop_metrics_from(job.run / "metrics.json", start)
        writers = [JSONWriter(str(job.run / "metrics.json")), TensorboardXWriter(str(job.run))]

    batches = TrainingBatches(train_set, cfg, rank=comm.get_rank(), world_size=comm.get_world_size())
    loader = training_loader(batches, start, stop, cfg.DATALOADER.NUM_WORKERS)
    started = time.perf_counter() - seconds
    with (
        EventStorage(start) as storage,
        contextlib.ExitStack() as closing,
        Progress(start, end, quiet=not main) as progress,
        _stop_signals() as asked_to_stop,
    ):
        for writer in writers:
            closing.callback(writer.close)
        trained.train()
        for step, batch in zip(range(start, stop), loader, strict=True):
            # what the model itself draws (which proposals to learn from) depends on the step alone, too
            torch.manual_seed(hash((cfg.SEED, step, comm.get_rank())))
            rate = learning_rate(step, cfg)
            set_learning_rate(optimizer, rate)
            try:
                with torch.autocast(cfg.MODEL.DEVICE, dtype, enabled=dtype != torch.float32):
                    if teacher and step < hints_end:
                        losses = teacher.hints(model, batch)
                    else:
                        teacher = None  # it has said all: its memory is free again
                        losses = trained(batch)
            except FloatingPointError:  # Detectron2's own word for it
                raise _diverged(job, step) from None
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
            scaler.step(optimizer)
            scaler.update()
            average.update(model, step)

            done = step + 1
            values = {name: value.item() for name, value in comm.reduce_dict(losses).items()}
            total = sum(values.values())
            if main and not math.isfinite(total):
                raise _diverged(job, step)
            storage.put_scalars(total_loss=total, **values)
            storage.put_scalar("lr", rate, smoothing_hint=False)
            progress.show(done, total)
            seconds = time.perf_counter() - started
            interrupted = _any_process(bool(asked_to_stop))

            evaluated = _due(done, cfg.TEST.EVAL_PERIOD, end)
            if evaluated:
                if main:
                    with average.applied_to(model) if cfg.FINETUNE.EMA_DECAY else contextlib.nullcontext():
                        with torch.autocast(cfg.MODEL.DEVICE, dtype, enabled=dtype != torch.float32):
                            result = evaluate_model(model, val_set, classes, cfg)
                        better = best is None or _score(result) > best["segm_AP"]
                        since_best = 0 if better or step < hints_end else since_best + 1
                        if better:
                            best = {
                                "iteration": done,
                                "segm_AP": _score(result),
                                "bbox_AP": result["bbox"]["AP"],
                            }
                            run.save_best(model.state_dict())
                    for kind in ("segm", "bbox"):
                        if (ap := result[kind]["AP"]) is not None:
                            storage.put_scalar(f"val/{kind}_AP", ap, smoothing_hint=False)
                    progress.say(
                        f"step {done}: val segm AP {_score(result):.1f}{' (best)' if better else ''}"
                    )
                    trained.train()
                since_best = comm.all_gather(since_best)[0]
            patience = cfg.FINETUNE.PATIENCE
            finished = done == end or bool(patience and since_best >= patience)

            if main and (done % LOG_PERIOD == 0 or evaluated or finished or interrupted or done == stop):
                write_metrics(job.run, writers)
            if main and (
                _due(done, cfg.SOLVER.CHECKPOINT_PERIOD, end) or finished or interrupted or done == stop
            ):
                state = {
                    "step": done,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler.state_dict(),
                    "average": average.weights,
                    "best": best,
                    "since_best": since_best,
                    "seconds": seconds,
                }
                run.save_last(state)
                record |= {"iterations": done, "best": best, "seconds": round(seconds, 1)}
                write_json(job.run / "run.json", record)
                draw_training_curves(job.run)
            storage.step()
            if interrupted:
                raise KeyboardInterrupt(f"stopped after step {done}: go on with --resume --output {job.run}")
            if finished:
                break


def _initialise(model: torch.nn.Module, teacher: Teacher | None, job: Job) -> dict[str, Any]:
    """Load the weights to start from; return what ``run.json`` says of them.

    The main process goes first: it may have to download them.
    """
    if not comm.is_main_process():
        comm.synchronize()
    loaded = load_weights(model, job.config.FINETUNE.INIT, job.backbone)
    if teacher:
        teacher.give_heads(model, loaded)
    if comm.is_main_process():
        print(loaded)
        comm.synchronize()
    return loaded.to_dict()


def autocast_dtype(cfg: CfgNode) -> torch.dtype:
    """The precision of the convolutions in training, from FINETUNE.AMP: auto, off, bf16 or fp16."""
    amp, device = cfg.FINETUNE.AMP, cfg.MODEL.DEVICE
    if amp == "auto":
        if supports_bfloat16(device):
            return torch.bfloat16
        return torch.float16 if device == "cuda" else torch.float32
    if amp == "fp16" and device == "cpu":
        raise UserError("FINETUNE.AMP fp16 does not train on a CPU: choose auto, bf16 or off")
    return {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def _diverged(job: Job, step: int) -> UserError:
    return UserError(
        f"the loss is no longer a number at step {step}: lower SOLVER.BASE_LR, or look for degenerate boxes with "
        f"`python -m finetune data check {job.data}`"
    )


def _score(result: dict[str, Any]) -> float:
    """Mask AP in percent. A val split without objects has none: then every checkpoint is as good as the next."""
    return float(result["segm"]["AP"] or 0.0)


def _due(done: int, period: int, end: int) -> bool:
    return done == end or (period > 0 and done % period == 0)


def _any_process(flag: bool) -> bool:
    """Whether the flag is set in any process, so that all leave the loop at the same step."""
    return any(comm.all_gather(flag)) if comm.get_world_size() > 1 else flag


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into a note that is read between two steps, so that no step is torn."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
