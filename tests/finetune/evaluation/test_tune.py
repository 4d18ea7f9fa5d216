"""``tune``: which settings are measured, which is chosen, and how ``export`` applies it."""

import json
import shutil
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from finetune.checkpoints.run import Run
from finetune.cli import finetune
from finetune.data.synthetic import make_synthetic
from finetune.errors import UserError
from finetune.evaluation import tune as tuning
from finetune.evaluation.operating_point import OperatingPoint, save_point
from finetune.evaluation.tune import Measurement, Setting, choose, explore, pareto_front
from finetune.export.archive import Options, export, read_tuned
from tests.conftest import REPOSITORY

OWN = Setting(640, 1000)


def measured(ms: float, ap: float = 70.0, found: int = 40, *, workers: int = 1) -> Measurement:
    return Measurement(replace(OWN, workers=workers), "bf16", "cpu", 8, ms, ap, found)


@pytest.mark.parametrize(
    ("others", "tolerance", "best"),
    [
        ([measured(50, 69.5), measured(40, 69.4)], 0.5, 50),
        ([measured(50, 69.5), measured(40, 69.4)], 1, 40),
        ([measured(50, 71, found=39), measured(40, 71, found=38)], 0.5, 50),
        ([measured(50, 69)], 0.5, 100),
        ([measured(50)], float("nan"), 100),
        ([measured(120, 75)], 0.5, 100),
    ],
)
def test_fastest_that_keeps_the_ap_is_chosen(others, tolerance, best):
    assert choose([measured(100), *others], "latency", tolerance).ms == best


def test_throughput_counts_all_workers() -> None:
    alone, four = measured(100), measured(300, workers=4)
    assert choose([alone, four], "latency", 0.5) is alone
    assert choose([alone, four], "throughput", 0.5) is four
    assert pareto_front([alone, four], "throughput") == [four]


def test_pareto_front_is_what_nothing_beats() -> None:
    points = [measured(100, 70), measured(50, 60), measured(80, 70), measured(60, 59), measured(120, 71)]
    assert [(m.ms, m.ap) for m in pareto_front(points, "latency")] == [(50, 60), (80, 70), (120, 71)]


def machine(setting: Setting) -> Measurement:
    """A processor with 8 cores on which 100 proposals are too few, 480 pixels enough, and two workers best."""
    if setting.precision == "int8" and setting.short_side == 320:
        raise UserError("its calibration failed (it crashed with SIGSEGV)")
    precision = "bf16" if setting.precision == "auto" else setting.precision
    speed = {"fp32": 2.0, "bf16": 1.0, "int8": 0.8}[precision]
    ms = speed * (setting.short_side + setting.proposals) * (1, 1, 1.5, 3, 4)[setting.workers]
    ap = 70.0 - 5 * (setting.proposals <= 100) - 5 * (setting.short_side < 480)
    return Measurement(setting, precision, "cpu", 8 // setting.workers, ms, ap, 40)


def test_each_step_starts_from_the_best_of_the_last() -> None:
    steps = [m.setting for m in explore(machine, OWN, "throughput", 0.5)]
    sides = [replace(OWN, proposals=300, short_side=side) for side in (576, 480, 384, 320)]
    best = replace(sides[1], precision="int8")
    assert steps == [
        OWN,
        *(replace(OWN, proposals=count) for count in (300, 100, 50)),
        *sides,
        replace(sides[1], precision="fp32"),
        best,
        replace(best, workers=2, threads=4),
        replace(best, workers=4, threads=2),  # is slower, so 8 workers are not tried
    ]
    assert [m.setting for m in explore(machine, OWN, "latency", 0.5)] == steps[:-2]


def test_setting_that_fails_is_left_out(capsys):
    steps = explore(machine, OWN, "latency", 100)
    assert [m.precision for m in steps if m.setting.short_side == 320] == ["bf16", "fp32"]
    assert "is left out: its calibration failed (it crashed" in capsys.readouterr().err


def read(archive: Path, name: str) -> dict:
    with zipfile.ZipFile(archive) as packed:
        return yaml.safe_load(packed.read(name))  # JSON is YAML


def no_int8(*_: object) -> None:
    raise UserError("no int8 here")


@pytest.fixture(scope="module")
def tuned(toy_run: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tuned.json`` of the toy run, from the command on few settings; a second call measures nothing again."""
    run = shutil.copytree(toy_run, tmp_path_factory.mktemp("tuned") / "toy")
    line = f"tune {run} --data {toy_data} --tolerance"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PROPOSALS": (50,), "SHORT_SIDES": (2 / 3,), "SECONDS": 0.1}.items():
            patch.setattr(tuning, name, value)
        patch.setattr(tuning, "Setting", partial(Setting, precision="fp32"))  # the toy's AP needs it
        patch.setattr(tuning, "add_int8", no_int8)
        first = CliRunner().invoke(finetune, [*line.split(), "100"])
        assert first.exit_code == 0, first.output
        assert "no int8 here" in first.stderr
        patch.setattr(tuning.archive, "stage", None)
        patch.setattr(tuning, "explore", lambda measure, own, *_: [measure(own)])
        second = CliRunner().invoke(finetune, [*line.split(), "0"])
    assert second.exit_code == 0, second.output
    assert second.stdout.splitlines()[-1] == str(run / "tuned.json")
    assert first.stdout.count("fp32") == 3
    assert second.stdout.splitlines()[2].split()[-1] == "chosen"
    return run / "tuned.json"


def test_measurements_are_kept(tuned):
    document = json.loads(tuned.read_text())
    measurements = document["measurements"]
    sizes = [(m["setting"]["short_side"], m["setting"]["proposals"]) for m in measurements]
    assert sizes[:2] == [(96, 100), (96, 50)]
    assert sizes[2][0] == 64
    assert measurements[0]["ap"] > 90 > measurements[2]["ap"]
    assert measurements[0]["found"] >= measurements[2]["found"]
    assert document["chosen"]["overrides"] == []  # the second call chose what was trained
    with Image.open(tuned.with_suffix(".png")) as picture:
        assert picture.width > 500


SMALL = "INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 107 MODEL.RPN.POST_NMS_TOPK_TEST 50"


def test_export_applies_what_was_chosen(copied_run, tuned, tmp_path):
    document = json.loads(tuned.read_text())
    document["chosen"] |= {"overrides": SMALL.split(), "precision": "fp32", "workers": 3}
    (copied_run / "tuned.json").write_text(json.dumps(document))
    save_point(Run.open(copied_run), OperatingPoint(0.7, chosen_by="best F1"))
    archive = export(copied_run, Options(engine="torch", output=tmp_path))
    config, served = read(archive, "config.yaml"), read(archive, "model-config.yaml")
    assert (config["INPUT"]["MIN_SIZE_TEST"], config["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"]) == (64, 50)
    assert (served["handler"], served["minWorkers"]) == ({"precision": "fp32"}, 3)
    card = read(archive, "archive.json")
    assert card["tuned"] == document["chosen"]
    assert card["operating_point"]["score_threshold"] == 0.7  # tuning kept what is found at it


@pytest.mark.parametrize(
    ("overrides", "change", "said"),
    [
        ("", {}, "as tuned: 96 px, 100 proposals, fp32, 1 × "),
        ("INPUT.MIN_SIZE_TEST 80", {}, "is left out: KEY VALUE pairs were given"),
        ("", {"weights_sha256": "0"}, "is left out: it is about other weights"),
    ],
)
def test_tuning_holds_for_the_weights_and_config(copied_run, tuned, capsys, overrides, change, said):
    document = json.loads(tuned.read_text()) | change
    (copied_run / "tuned.json").write_text(json.dumps(document))
    chosen = read_tuned(Run.open(copied_run, overrides.split()))
    assert said in capsys.readouterr().err
    assert chosen == (document["chosen"] if "as tuned" in said else None)


@pytest.mark.parametrize("damage", ['{"measurements": []}', "[]"])
def test_unfinished_tuning_is_refused(copied_run, damage):
    (copied_run / "tuned.json").write_text(damage)
    with pytest.raises(UserError, match="is not complete: run `maskrcnn tune` to its end"):
        read_tuned(Run.open(copied_run))


@pytest.mark.slow
def test_starter_is_tuned_for_throughput(tmp_path, monkeypatch, capsys):
    make_synthetic(tmp_path / "data", images=10, size=(320, 240))
    starter = shutil.copy(REPOSITORY / "model_store/mobilenetv2_fpn_starter.safetensors", tmp_path)
    monkeypatch.setattr(tuning, "SECONDS", 3.0)
    monkeypatch.setattr(tuning, "SHORT_SIDES", (1 / 2,))
    table, file = tuning.tune(Path(starter), tmp_path / "data", tolerance=2, goal="throughput")
    assert file == tmp_path / "mobilenetv2_fpn_starter.tuned.json"
    document = json.loads(file.read_text())
    own, chosen = (document["chosen"][name] for name in ("untuned", "measured"))
    assert chosen["ms"] / chosen["setting"]["workers"] <= own["ms"]
    assert own["ap"] - chosen["ap"] <= 2
    settings = [m["setting"] for m in document["measurements"]]
    assert len(settings) == len(table) - 1
    assert {320, 640} <= {setting["short_side"] for setting in settings}
    assert "int8" in [m["precision"] for m in document["measurements"]] or "int8" in capsys.readouterr().err
    assert own["threads"] == 1 or 2 in [setting["workers"] for setting in settings]
