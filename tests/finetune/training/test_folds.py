"""``train --folds`` on a toy model and a few drawn photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import load_split
from finetune.evaluation.coco_eval import evaluate_results
from finetune.training import folds
from tests.commands import finetune
from tests.finetune.training.test_training import arguments, resume_arguments, train

TWO_STEPS = "--folds 3 SOLVER.MAX_ITER 2 TEST.EVAL_PERIOD 2 SOLVER.CHECKPOINT_PERIOD 1"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def crossed(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "crossed"
    assert train(arguments(data, run, TWO_STEPS)) == 0
    return run


def test_each_photo_is_tested_once_by_a_model_that_has_not_seen_it(data, crossed):
    every = {record["file_name"] for split in ("train", "val") for record in load_split(data, split)}
    tested: list[str] = []
    for n in (1, 2, 3):
        parts = [
            {record["file_name"] for record in load_split(crossed / f"fold{n}" / "data", split)}
            for split in ("train", "val", "test")
        ]
        tested += parts[2]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert set.union(*parts) == every
    assert sorted(tested) == sorted(every)


def test_the_pooled_figures_are_those_of_all_results_together(crossed):
    records, results = [], []
    for n in (1, 2, 3):
        fold = crossed / f"fold{n}"
        found = read(fold / "results.json")
        for pool, items in (records, load_split(fold / "data", "test")), (results, found):
            pool += [item | {"image_id": 100 * n + item["image_id"]} for item in items]
    groups = np.array([int(record["group"]) for record in records])
    pooled, *_ = evaluate_results(records, results, ["disc"], groups=groups)
    report = read(crossed / "evaluation" / "folds" / "report.json")
    assert (report["segm"], report["bbox"]) == (pooled["segm"], pooled["bbox"])
    assert (report["images"], report["objects"]) == (6, 6)
    text = (crossed / "evaluation" / "folds" / "report.md").read_text()
    assert report["expectation"] in text
    at = report["at_operating_point"]
    assert f"{at['found']} of 6 objects" in report["expectation"]


def test_stopped_and_resumed_trains_what_is_left_and_ends_with_the_same_report(
    data, crossed, tmp_path, capsys, monkeypatch
):
    run, launched = tmp_path / "run", list[str]()

    def launch(job, num_gpus):
        launched.append(job.run.name)
        if launched == ["fold1", "fold2"]:
            raise KeyboardInterrupt
        return launch_fold(job, num_gpus)

    launch_fold = folds.launch
    monkeypatch.setattr(folds, "launch", launch)
    assert train(arguments(data, run, TWO_STEPS)) == 130
    assert f"--folds 3 --resume --output {run}" in capsys.readouterr().err
    assert train(resume_arguments(data, run, "--folds 3")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "evaluation" / "folds" / "report.md")
    assert launched == ["fold1", "fold2", "fold2", "fold3"]
    one, other = (read(each / "evaluation" / "folds" / "report.json") for each in (crossed, run))
    assert other == one | {"name": "run"}


def test_folds_are_compared(crossed, tmp_path, capsys):
    assert finetune(["compare", crossed, "--split", "folds", "--output", tmp_path / "comparison"]) == 0
    assert "crossed" in capsys.readouterr().out
    assert "on the train and val split, by folds" in (tmp_path / "comparison" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ("--folds 2", 2, "2 is not in the range"),
        ("--folds 3 --stop-after 1", 2, "leave it out with --folds"),
        ("--folds 3 --minutes 1", 2, "--minutes belongs to one training"),
        ("--folds 9", 1, "do not fill 9 folds"),
    ],
)
def test_refused_before_anything_is_written(data, tmp_path, capsys, more, status, message):
    assert train(arguments(data, tmp_path / "run", more)) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_folds_are_not_resumed_or_overwritten(data, crossed, capsys):
    assert train(resume_arguments(data, crossed, "--folds 4")) == 1
    assert "another number of folds" in capsys.readouterr().err
    before = read(crossed / "run.json")
    for more in (TWO_STEPS, ""):
        assert train(arguments(data, crossed, more)) == 1
        assert "--resume" in capsys.readouterr().err
    assert read(crossed / "run.json") == before


def test_weights_that_may_have_seen_the_photos(data, crossed, tmp_path, capsys):
    """Refused if they learned from this data set; a warning if from another, which may hold some of its photos."""
    weights = crossed / "fold1" / "model_best.safetensors"

    def errors(data: Path) -> str:
        words = arguments(data, tmp_path / "run", "--folds 9")  # too many: nothing is trained in any case
        words[words.index("none")] = str(weights)
        assert train(words) == 1
        return capsys.readouterr().err

    assert "has learned from the data set discs, so no photo" in errors(data)
    other = shutil.copytree(data, tmp_path / "other")
    (other / "dataset.json").write_text(
        json.dumps({"name": "other", "classes": ["disc"], "source": "drawn anew"})
    )
    message = errors(other)
    assert "the figures will be too good" in message
    assert "do not fill 9 folds" in message
