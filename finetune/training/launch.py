"""Check a training request, then run :mod:`finetune.training.recipe` in one process or several."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from finetune.training.state import Job

NETWORK_KEYS = (
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.MOBILENETV2.SEPARABLE_FPN",
    "MODEL.RPN.HEAD_NAME",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
)
"""What a training takes over from one of our own checkpoints: without it most tensors would not fit."""

LEAN = {"mobilenetv2_fpn": "mobilenetv2_fpn_cpu"}
"""Backbone → the config that a training on a processor takes in place of the backbone's own."""


def prepare(
    backbone: str,
    data: Path,
    *,
    output: Path | None = None,
    weights: str | None = None,
    resume: bool = False,
    minutes: float | None = None,
    stop_after: int | None = None,
    overrides: Sequence[str] = (),
) -> Job:
    """Check the request and complete the config. Writes nothing.

    Raises:
        UserError: something is missing, unknown, or contradicts something else.
    """
    from finetune.data.dataset import class_names, load_split
    from finetune.training.optim import check_choices
    from finetune.training.state import Job

    classes = class_names(data)
    for split in ("train", "val"):
        load_split(data, split)  # raises if there is none
    run = output or Path("runs") / backbone
    if resume:
        given = [name for name, value in (("--weights", weights), ("--minutes", minutes)) if value]
        cfg = _config_to_resume(run, backbone, classes, [*given, *overrides])
    else:
        if minutes and "SOLVER.MAX_ITER" in overrides[::2]:
            raise UserError("--minutes sets SOLVER.MAX_ITER: leave one of the two out")
        cfg = _config_to_start(run, backbone, classes, weights, overrides)
    if len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but {data} has {len(classes)} "
            f"classes ({', '.join(classes)}): leave the key out, it is set from the data"
        )
    check_choices(cfg)
    command = f"maskrcnn {shlex.join(sys.argv[1:])}"
    return Job(backbone, cfg, data, run, resume, stop_after, minutes, command)


def _network_of(weights: Path, backbone: str) -> list[str]:
    """The network of one of our own checkpoints as ``KEY VALUE …``, so that a training from it has the same one.

    Nothing for other weights: those of another backbone, or without a config inside or beside them.
    """
    from detectron2.config import CfgNode

    from finetune.checkpoints.run import Run
    from finetune.configs.keys import get_config, leaves

    run = Run(weights)
    try:
        if not weights.is_file() or run.backbone != backbone:
            return []
    except UserError:
        return []
    values = dict(leaves(get_config(backbone))) | dict(leaves(CfgNode(run.recorded_config)))
    return [word for key in NETWORK_KEYS for word in (key, str(values[key]))]


def _config_to_start(
    run: Path, backbone: str, classes: list[str], weights: str | None, overrides: Sequence[str]
) -> CfgNode:
    """The config of a new training: the backbone's for this device, with what the data and the weights ask for.

    Raises:
        UserError: ``run`` holds a training already, or an override is not possible.
    """
    import torch

    from finetune.configs.keys import get_config

    if any((run / name).exists() for name in ("last.pth", "fold1")):
        raise UserError(
            f"{run} already holds a training: add --resume to continue it, or choose another --output"
        )
    chosen = dict(zip(overrides[::2], overrides[1::2], strict=False))
    device = chosen.get("MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
    start = weights or chosen.get("FINETUNE.INIT", "coco")
    network = _network_of(Path(start), backbone)
    pretrained = network or start in ("coco", "imagenet")
    lean = LEAN.get(backbone, "") if device == "cpu" and pretrained else ""
    defaults = ["MODEL.ROI_HEADS.NUM_CLASSES", str(len(classes)), "OUTPUT_DIR", str(run)]
    defaults += ["MODEL.DEVICE", device, *network]
    cfg = get_config(backbone, [*defaults, *overrides], name=lean)
    if lean:
        changed = "smaller crops" if network else "a narrower network and smaller crops"
        print(f"on a processor: {changed} (finetune/configs/{lean}.yaml)", file=sys.stderr)
    if weights:
        cfg.FINETUNE.INIT = weights
    if cfg.SEED < 0:
        cfg.SEED = secrets.randbelow(2**31)
    return cfg


def _config_to_resume(run: Path, backbone: str, classes: list[str], changes: Sequence[str]) -> CfgNode:
    """The config that a run was started with; a resumed run keeps it.

    Raises:
        UserError: there is no run, it has another backbone or other classes, or ``changes`` is not empty.
    """
    from finetune.configs.keys import read_config
    from finetune.files import read_json

    path = run / "config.yaml"
    if changes:
        raise UserError(
            f"a resumed run keeps its config ({path}): leave {changes[0]} out, or start a new run"
        )
    if not path.exists():
        raise UserError(f"{run} holds no training to resume: leave --resume out to start one")
    record = read_json(run / "run.json")
    for what, asked in (("backbone", backbone), ("classes", classes)):
        if record[what] != asked:
            raise UserError(
                f"the training in {run} has the {what} {record[what]}, not {asked}: use the same, or start a new run"
            )
    return read_config(path)


def launch(job: Job, num_gpus: int = 1) -> bool:
    """Train in ``num_gpus`` processes, or in those that torchrun started; return whether this one writes the run.

    Raises:
        UserError: the processes cannot be started as asked, or one of them failed.
        KeyboardInterrupt: stopped, and saved.
    """
    from torch.distributed import is_torchelastic_launched

    from finetune.training.recipe import fine_tune

    if is_torchelastic_launched():
        if num_gpus > 1:
            raise UserError("torchrun has started the processes: leave --num-gpus out")
        _check(job, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
        _fine_tune_under_torchrun(job)
        return int(os.environ["RANK"]) == 0
    _check(job, num_gpus, num_gpus)
    if num_gpus == 1:
        fine_tune(job)
    else:
        _fine_tune_in_processes(job, num_gpus)
    return True


def _check(job: Job, total: int, local: int) -> None:
    """Refuse, before anything is started, what ``total`` processes, ``local`` of them here, cannot do."""
    import torch

    from finetune.training.optim import device_type

    if job.config.SOLVER.IMS_PER_BATCH % total:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {job.config.SOLVER.IMS_PER_BATCH} cannot be divided evenly among {total} "
            "processes: make it a multiple of their number"
        )
    device, gpus = job.config.MODEL.DEVICE, torch.cuda.device_count()
    if total > 1 and device not in ("cpu", "cuda"):
        raise UserError(
            f"MODEL.DEVICE {device} is one GPU, not {total}: set MODEL.DEVICE cuda, or train in one process"
        )
    if device_type(job.config) == "cuda" and local > gpus:
        raise UserError(
            f"{local} training processes need a GPU each, but this machine has {gpus}: start fewer (--num-gpus), or "
            "train on the CPU with MODEL.DEVICE cpu"
        )


def _fine_tune_under_torchrun(job: Job) -> None:
    """Join the processes that torchrun started, as Detectron2's ``launch`` does with those that it starts."""
    import torch
    from detectron2.utils import comm
    from torch import distributed

    from finetune.training.optim import device_type

    on_gpu = device_type(job.config) == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        _worker(job)
    finally:
        distributed.destroy_process_group()


def _fine_tune_in_processes(job: Job, num_gpus: int) -> None:
    """Start one process per GPU with Detectron2's ``launch``, and wait for them."""
    from detectron2.engine import launch as launch_processes
    from torch.multiprocessing import ProcessExitedException

    if job.config.MODEL.DEVICE == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Detectron2 takes NCCL wherever its processes see a GPU
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the processes, too
    resume = f"continue with --resume --output {job.run}"
    try:
        launch_processes(_worker, num_gpus, dist_url="auto", args=(job,))
    except ProcessExitedException as error:
        ended = f"was killed by {error.signal_name}" if error.signal_name else "failed, see above"
        raise UserError(f"training process {error.error_index} {ended}: fix that and {resume}") from None
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        for process in multiprocessing.active_children():
            process.join()
        raise KeyboardInterrupt(f"stopped: {resume}") from None


def _worker(job: Job) -> None:
    """The body of each of several training processes."""
    from detectron2.utils import comm

    from finetune.training.recipe import fine_tune

    job.config.SEED = comm.all_gather(job.config.SEED)[0]  # under torchrun, each process drew a random seed
    try:
        fine_tune(job)
    except UserError as error:
        error.show()
        sys.exit(1)
