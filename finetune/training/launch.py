"""``python -m finetune train``: check the request, then start :mod:`finetune.training.recipe` in each process."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from finetune.training.recipe import Job

DESCRIPTION = """\
Fine-tune a backbone on a data set. The run folder gets config.yaml, run.json, metrics.json, curves.png, TensorBoard
events, last.pth (to resume from) and model_best.safetensors (the best checkpoint by mask AP on the val split).

  python -m finetune train mobilenetv2_fpn --data data/balloon
  python -m finetune train resnet50_fpn --data data/balloon --weights imagenet SOLVER.MAX_ITER 600
  python -m finetune train resnet50_fpn --data data/balloon --output runs/resnet50_fpn --resume
  torchrun --nproc-per-node 4 -m finetune train resnet50_fpn --data data/balloon
"""

LOST_CONTACT = 3
"""Exit status of a training process whose peers are gone."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``train``."""
    parser = subparsers.add_parser(
        "train",
        help="fine-tune a backbone on a data set",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("backbone", help="resnet50_fpn, resnet101_fpn, mobilenetv2_fpn or vovnet19_fpn")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="made by `finetune data …`")
    parser.add_argument(
        "--weights",
        metavar="SPEC",
        help="what to start from: coco, imagenet, none, a file or a URL (default: FINETUNE.INIT of the config)",
    )
    parser.add_argument("--output", type=Path, metavar="RUN", help="the run folder (default: runs/BACKBONE)")
    parser.add_argument("--resume", action="store_true", help="go on where the run folder's training stopped")
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="stop early, to be resumed later")
    parser.add_argument(
        "--num-gpus",
        type=_count,
        default=1,
        metavar="N",
        help="processes on this machine, one GPU each; without GPUs they share the CPU",
    )
    parser.add_argument("--num-machines", type=_count, default=1, metavar="N", help="machines that take part")
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="R", help="which of them this one is, from 0"
    )
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="where the machines meet: tcp://FIRST_MACHINE:PORT"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="configuration keys, such as SOLVER.BASE_LR 0.0001"
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the command; the last line printed is the path of the run folder."""
    from torch.distributed import is_torchelastic_launched

    from finetune.training.recipe import fine_tune

    job = prepare(args)
    torchrun = is_torchelastic_launched()
    if torchrun and args.num_gpus * args.num_machines > 1:
        raise UserError("torchrun has started the processes: leave --num-gpus and --num-machines out")
    processes = int(os.environ["WORLD_SIZE"]) if torchrun else args.num_gpus * args.num_machines
    if processes > 1 and job.config.FINETUNE.TEACHER:
        raise UserError("a teacher (FINETUNE.TEACHER) teaches one process only: train in one, or without it")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise UserError(
            "several machines need a place to meet: give all of them --dist-url tcp://FIRST_MACHINE:PORT"
        )
    if job.config.SOLVER.IMS_PER_BATCH % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {job.config.SOLVER.IMS_PER_BATCH} cannot be shared out evenly among {processes} "
            "processes: make it a multiple of their number"
        )
    if torchrun:
        _fine_tune_under_torchrun(job)
    elif processes == 1:
        fine_tune(job)
    else:
        _fine_tune_in_processes(job, args)
    if (int(os.environ["RANK"]) if torchrun else args.machine_rank) == 0:
        print(job.run)
    return 0


def _fine_tune_under_torchrun(job: Job) -> None:
    """As one of the processes that torchrun started: what Detectron2's ``launch`` does in those of its own."""
    import torch
    from detectron2.utils import comm
    from torch import distributed

    on_gpu = job.config.MODEL.DEVICE == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        _worker(job)
    finally:
        distributed.destroy_process_group()


def _fine_tune_in_processes(job: Job, args: argparse.Namespace) -> None:
    """One process per GPU, started by Detectron2's ``launch``.

    Raises:
        UserError: a process failed; what failed stands above in its own words.
        KeyboardInterrupt: the processes were asked to stop and have saved what they had.
    """
    from detectron2.engine import launch
    from torch.multiprocessing import ProcessExitedException

    try:
        launch(_worker, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(job,))
    except ProcessExitedException as error:
        if error.exit_code == LOST_CONTACT:
            raise UserError(
                "another machine's training process ended: what failed stands there; mend that and go on with "
                f"--resume --output {job.run} on all machines (a disk that they share)"
            ) from None
        ended = f"was killed by {error.signal_name}" if error.signal_name else "failed, see above"
        raise UserError(
            f"training process {error.error_index} {ended}: mend that and go on with --resume --output {job.run}"
        ) from None
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        for process in multiprocessing.active_children():
            process.join()
        raise KeyboardInterrupt(f"stopped: go on with --resume --output {job.run}") from None


def _worker(job: Job) -> None:
    """One of several training processes."""
    from detectron2.utils import comm

    from finetune.training.recipe import fine_tune

    job.config.SEED = comm.all_gather(job.config.SEED)[0]  # a random one was drawn on every machine
    try:
        fine_tune(job)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if not _lost_contact(error):
            raise
        sys.exit(LOST_CONTACT)


def _lost_contact(error: RuntimeError) -> bool:
    """Whether another process of the training is gone: NCCL has an error of its own, gloo only its words."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error) or "Connection closed by peer" in str(error)


def prepare(args: argparse.Namespace) -> Job:
    """Check the arguments and settle the configuration.

    Raises:
        UserError: something is missing, unknown, or contradicts something else.
    """
    import torch

    from finetune.configs.keys import get_config
    from finetune.data.dataset import class_names, load_split
    from finetune.training.optim import check_choices
    from finetune.training.recipe import Job

    classes = class_names(args.data)
    for split in ("train", "val"):
        load_split(args.data, split)  # complains where there is none
    output = args.output or Path("runs") / args.backbone
    if args.resume:
        cfg = _config_of(output, args, classes)
    else:
        if (output / "last.pth").exists():
            raise UserError(
                f"{output} already holds a training: add --resume to go on with it, or choose another --output"
            )
        defaults = ["MODEL.ROI_HEADS.NUM_CLASSES", str(len(classes)), "OUTPUT_DIR", str(output)]
        if "MODEL.DEVICE" not in args.overrides:
            defaults += ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"]
        cfg = get_config(args.backbone, [*defaults, *args.overrides])
        if args.weights:
            cfg.FINETUNE.INIT = args.weights
        if cfg.SEED < 0:
            cfg.SEED = secrets.randbelow(2**31)
    if len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise UserError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but {args.data} has {len(classes)} "
            f"classes ({', '.join(classes)}): leave the key out, it is set from the data"
        )
    check_choices(cfg)
    return Job(
        backbone=args.backbone,
        config=cfg,
        data=args.data,
        run=output,
        resume=args.resume,
        stop_after=args.stop_after,
        command="python -m finetune " + shlex.join(sys.argv[1:]),
    )


def _config_of(run: Path, args: argparse.Namespace, classes: list[str]) -> CfgNode:
    """The configuration that a run was started with; a resumed run keeps it.

    Raises:
        UserError: there is no run, or it is of another backbone or other classes.
    """
    from finetune.configs.keys import read_config
    from finetune.files import read_json

    for word in [*args.overrides[:1], *(["--weights"] if args.weights else [])]:
        raise UserError(
            f"a resumed run keeps its configuration ({run / 'config.yaml'}): leave {word} out, or start a new run"
        )
    path = run / "config.yaml"
    if not path.exists():
        raise UserError(
            f"{run} holds no training to resume: leave --resume out to start one (several machines need the run "
            "folder on a disk that they share)"
        )
    record = read_json(run / "run.json")
    for what, asked in (("backbone", args.backbone), ("classes", classes)):
        if record[what] != asked:
            raise UserError(
                f"the training in {run} has the {what} {record[what]}, not {asked}: go on with that, or start a new run"
            )
    return read_config(path)
