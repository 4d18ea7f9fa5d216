"""Cross-validation: train K models, each tested on photos that it never saw, and pool what they find.

A dozen test photos say little about a model. Here every photo of train and val is tested once. The photos are dealt
into K folds; for each fold, a model learns from the others but one, by which its best checkpoint is chosen. So nothing
is chosen on the photos that a model is tested on. The test split is not touched.

::

    RUN/config.yaml, run.json   the config and the folds
    RUN/fold1/ … foldK/         a run folder each; data/ is its data set, with the fold as its test split
    RUN/fold1/results.json      what the model found in its fold (COCO results), written last
    RUN/evaluation/folds/       the report
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.checkpoints.run import LAST, Run
from finetune.data.dataset import Photo, load_split, read_card, read_photos, write_dataset
from finetune.data.split import deal
from finetune.errors import UserError
from finetune.evaluation.folds_report import report_on_folds
from finetune.evaluation.inference import predict
from finetune.evaluation.report import evaluate_run
from finetune.files import locked, read_json, write_atomically, write_json
from finetune.training.launch import launch, prepare

if TYPE_CHECKING:
    from finetune.training.state import Job

Record = dict[str, Any]


def cross_validate(
    folds: int, num_gpus: int, *, backbone: str, data: Path, output: Path | None, **request: Any
) -> tuple[Record, Path]:
    """Train and test the models that are not finished yet, then write the report on all of them.

    Args:
        folds: K, at least 3.
        backbone, data, output, request: as for ``prepare``.

    Returns:
        The report, as in ``report.json``, and its folder.

    Raises:
        UserError: as ``prepare`` and ``launch``; or there are too few photos, the run to resume has other folds, the
            initial weights have seen the photos, or torchrun started this process.
        KeyboardInterrupt: stopped, and saved.
    """
    from torch.distributed import is_torchelastic_launched

    if is_torchelastic_launched():
        raise UserError("--folds starts its own processes: leave torchrun out")
    job = prepare(backbone, data, output=output or Path("runs") / f"{backbone}_folds", **request)
    _check_weights(job)
    dealt = deal([photo for split in ("train", "val") for photo in read_photos(data, split)], folds)
    with locked(job.run):
        _record_folds(job, [[photo.name for photo in fold] for fold in dealt])
        for n in range(folds):
            own, choosing, *learning = dealt[n:] + dealt[:n]
            splits = {"train": list(chain(*learning)), "val": choosing, "test": own}
            try:
                _train_and_test(job, f"fold{n + 1}", num_gpus, splits)
            except KeyboardInterrupt:
                resume = f"--folds {folds} --resume --output {job.run}"
                raise KeyboardInterrupt(f"stopped in fold {n + 1}: continue with {resume}") from None
        return report_on_folds(job.run, data, folds)


def _check_weights(job: Job) -> None:
    """Refuse initial weights that were fine-tuned on the data set: no photo would be new to them. Of others, warn."""
    weights, card = Path(job.config.FINETUNE.INIT), read_card(job.data)
    learned = (Run(weights).record.get("data") or {}) if weights.is_file() else {}
    if any(learned.get(key) == card[key] for key in ("name", "source") if key in card):
        raise UserError(
            f"{weights} has learned from the data set {learned.get('name')}, so no photo would be new to it: start "
            "from weights that have not, such as --weights coco"
        )
    if learned:
        click.echo(
            f"{weights} has learned from the data set {learned.get('name')}: if that has photos of {job.data}, the "
            "figures will be too good",
            err=True,
        )


def _record_folds(job: Job, names: list[list[str]]) -> None:
    """Write ``config.yaml`` and ``run.json``, or check that a run to resume has the same data set and folds."""
    path, card = job.run / "run.json", read_card(job.data)
    plan = {"data": card, "folds": names}
    if not job.resume:
        write_atomically(job.run / "config.yaml", lambda file: file.write_text(job.config.dump()))
        record = {"backbone": job.backbone, "classes": card["classes"], "command": job.command}
        write_json(path, record | plan)
    elif not read_json(path).items() >= plan.items():
        raise UserError(
            f"{job.run} has other photos or another number of folds: give the same, or start a new run"
        )


def _train_and_test(job: Job, fold: str, num_gpus: int, splits: dict[str, list[Photo]]) -> None:
    """Train the model of one fold and write what it finds in its test split, unless that is done."""
    run, card, config = job.run / fold, read_card(job.data), job.config.clone()
    if (run / "results.json").exists():
        return
    counts = "{} photos to learn from, {} to choose the checkpoint, {} to test"
    click.echo(f"{fold}: {counts.format(*map(len, splits.values()))}", err=True)
    described = {key: card.get(key, "") for key in ("name", "classes", "source")}
    write_dataset(run / "data", **described, splits=splits, copy=False)
    config.OUTPUT_DIR, resume = str(run), (run / LAST).exists()
    launch(replace(job, config=config, data=run / "data", run=run, resume=resume), num_gpus)
    evaluate_run(run, run / "data", split="val", worst=0)  # chooses the operating point
    best = Run.open(run)
    results, _ = predict(best.load_model(), load_split(run / "data", "test"), best.config, progress=True)
    for result in results:
        result["segmentation"]["counts"] = result["segmentation"]["counts"].decode()
    write_json(run / "results.json", results)
