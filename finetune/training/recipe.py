"""The recipe: fine-tune Mask R-CNN on a small data set. Read it from top to bottom, then copy it.

One process runs :func:`fine_tune` on a CPU or one GPU; :mod:`finetune.training.launch` starts one for each of several
GPUs. All randomness in a step comes from a generator seeded by (seed, step), so a run that was stopped and
resumed sees the same pictures as one that was not. On a CPU it ends with the same weights, bit for bit; on a GPU the
backward pass of RoI Align adds in no fixed order.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch.nn.parallel import DistributedDataParallel

import finetune.backbones  # noqa: F401 - registers the backbones in every process
from finetune.checkpoints.initial_weights import load_weights
from finetune.checkpoints.run import Run
from finetune.data.dataset import load_split
from finetune.errors import UserError
from finetune.evaluation.inference import evaluate_model, predict, silence_known_warnings
from finetune.evaluation.plots import draw_training_curves
from finetune.files import locked, read_json, write_atomically, write_json
from finetune.training import optim
from finetune.training.dataloader import is_negative, training_loader
from finetune.training.progress import Metrics, Progress, stop_signals
from finetune.training.schedule import fit_to_time
from finetune.training.state import Job, State, describe

LOG_PERIOD = 10
"""Steps between two lines of metrics.json, and on a GPU between two looks at the losses, which make the host wait."""

Losses = dict[str, torch.Tensor]


def fine_tune(job: Job) -> None:
    """Train, keep the best checkpoint by mask AP on the val split, and leave a complete run folder.

    Raises:
        UserError: the user can fix it.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the current step was finished and saved.
    """
    silence_known_warnings()
    main = comm.is_main_process()
    with locked(job.run) if main else contextlib.nullcontext():
        started = time.perf_counter()
        state, start = set_up(job)
        network = distribute(state.model, job.config)
        if job.minutes and not job.resume:
            learn = partial(train_step, job, state, network)
            fit_to_time(job, state, learn, start["false_scores"], started)
        record = describe(job, state) | start
        if main:
            write_atomically(job.run / "config.yaml", lambda path: path.write_text(job.config.dump()))
            write_json(job.run / "run.json", record)
        train(job, state, network, record)


def set_up(job: Job) -> tuple[State, dict[str, Any]]:
    """Build the model and all that trains it, or load them from ``last.pth``.

    Returns:
        The state, and what ``run.json`` says about the initial weights: ``init`` and ``false_scores``.
    """
    cfg = job.config
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg).to(memory_format=torch.channels_last)  # what convolutions are fastest in
    saved = Run(job.run).load_last() if job.resume else None
    if saved:
        record = read_json(job.run / "run.json")
        start = {"init": record["init"], "false_scores": record["false_scores"]}
    else:
        start = {"init": initialize(model, job), "false_scores": mine_negatives(model, job)}
    state = State(
        model,
        optimizer=optim.build_optimizer(model, cfg),
        scaler=torch.amp.GradScaler(
            optim.device_type(cfg), enabled=optim.autocast_dtype(cfg) == torch.float16
        ),
        average=optim.weight_average(model, cfg.FINETUNE.EMA_DECAY) if cfg.FINETUNE.EMA_DECAY > 0 else None,
    )
    if saved:
        state.load_state_dict(saved)
    return state, start


def train(job: Job, state: State, network: torch.nn.Module, record: dict[str, Any]) -> None:
    """The training loop. All processes train; the main one also evaluates and writes."""
    cfg, end, main = job.config, job.config.SOLVER.MAX_ITER, comm.is_main_process()
    stop = min(end, state.step + job.stop_after) if job.stop_after else end
    train_set, val_set = load_split(job.data, "train"), load_split(job.data, "val")
    loader = training_loader(train_set, cfg, record["false_scores"], state.step, stop)
    read_period = 1 if optim.device_type(cfg) == "cpu" else LOG_PERIOD
    unread: list[Losses] = []
    written = Future[None]()  # the last checkpoint, written while the training goes on
    written.set_result(None)
    network.train()
    started = time.perf_counter() - state.seconds
    with (
        EventStorage(state.step) as storage,
        contextlib.closing(Metrics(job.run, state.step, quiet=not main)) as metrics,
        contextlib.closing(Progress(state.step, end, quiet=not main)) as progress,
        stop_signals() as signals,
        ThreadPoolExecutor(1) as writer,
    ):
        for step, batch in zip(range(state.step, stop), loader, strict=True):
            unread.append(train_step(job, state, network, batch, step))
            state.step, state.seconds = step + 1, time.perf_counter() - started
            storage.put_scalar("lr", optim.learning_rate(step, cfg), smoothing_hint=False)
            evaluated = due(state.step, cfg.TEST.EVAL_PERIOD, end)
            saved = due(state.step, cfg.SOLVER.CHECKPOINT_PERIOD, end)
            if not (evaluated or saved or state.step == stop or state.step % read_period == 0):
                storage.step()
                continue
            progress.show(state.step, log_losses(job, unread, state.step))
            unread.clear()
            if evaluated and main:
                progress.say(evaluate(job, state, val_set, record["classes"]))
            if evaluated:
                state.since_best = comm.all_gather(state.since_best)[0]
            interrupted = any(comm.all_gather(bool(signals)))  # all processes leave at the same step
            converged = 0 < cfg.FINETUNE.PATIENCE <= state.since_best
            last = interrupted or converged or state.step == stop
            if last or evaluated or state.step % LOG_PERIOD == 0:
                metrics.write()
            if main and (last or saved):
                written.result()  # raises what went wrong
                written = writer.submit(save, job.run, state.snapshot(), record)
            if last:
                written.result()
            storage.step()
            if interrupted:
                raise KeyboardInterrupt(
                    f"stopped at step {state.step}: continue with --resume --output {job.run}"
                )
            if converged:
                break


def train_step(
    job: Job, state: State, network: torch.nn.Module, batch: list[dict[str, Any]], step: int
) -> Losses:
    """One optimizer step on this process's share of the batch; return its losses, still on the device.

    Raises:
        UserError: the network's proposals are NaN or infinite.
    """
    cfg = job.config
    # Detectron2 samples the proposals to learn from: let that, too, depend on the step alone
    torch.manual_seed(hash((cfg.SEED, step, comm.get_rank())))
    optim.set_learning_rate(state.optimizer, optim.learning_rate(step, cfg))
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
    return {name: loss.detach() for name, loss in losses.items()}


def log_losses(job: Job, unread: list[Losses], done: int) -> float:
    """Put the losses of the last steps up to ``done`` into the ``EventStorage``, averaged over processes.

    Returns:
        The last step's sum.

    Raises:
        UserError: a loss is NaN or infinite.
    """
    table = torch.stack([torch.stack(list(losses.values())) for losses in unread])
    total = 0.0
    for step, row in enumerate(comm.reduce_dict({"": table})[""].tolist(), done - len(unread)):
        total = sum(row)
        if comm.is_main_process() and not math.isfinite(total):
            raise diverged(job, step)
        values = dict(zip(unread[0], row, strict=True))
        get_event_storage().put_scalars(**values, total_loss=total, cur_iter=step)
    return total


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


def save(run: Path, saved: dict[str, Any], record: dict[str, Any]) -> None:
    """Write ``last.pth``, and bring ``run.json`` and ``curves.png`` up to date. Runs beside the training.

    Args:
        saved: a snapshot of the state.
    """
    Run(run).save_last(saved)
    reached = {"iterations": saved["step"], "best": saved["best"], "seconds": round(saved["seconds"], 1)}
    write_json(run / "run.json", record | reached)
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


def distribute(model: GeneralizedRCNN, cfg: CfgNode) -> torch.nn.Module:
    """The model, wrapped to average gradients if there are several processes."""
    if comm.get_world_size() == 1:
        return model
    devices = [comm.get_local_rank()] if optim.device_type(cfg) == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def due(done: int, period: int, end: int) -> bool:
    """Whether something happens after step ``done``: every ``period`` steps (0: never), and at the end."""
    return done == end or (period > 0 and done % period == 0)


def diverged(job: Job, step: int) -> UserError:
    return UserError(
        f"the loss is NaN or infinite at step {step}: lower SOLVER.BASE_LR, or look for degenerate boxes with "
        f"`maskrcnn data check {job.data}`"
    )
