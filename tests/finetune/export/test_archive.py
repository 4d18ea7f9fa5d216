"""``export`` and ``publish`` on a toy model: what an archive carries, and what is refused."""

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from finetune.checkpoints.run import Run
from finetune.errors import UserError
from finetune.evaluation.operating_point import OperatingPoint, read_point, save_point
from finetune.export import archive as exporting
from finetune.export import cli
from finetune.export.archive import Options, export
from finetune.export.publish import publish

POINT = OperatingPoint(0.62, {}, None, "best F1")
EVALUATION = {"split": "test", "images": 3, "bbox": {"AP": 50.0}, "segm": {"AP": 61.5, "APs": None}}


@pytest.fixture(scope="module")
def run(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated, with an operating point."""
    folder = shutil.copytree(toy_run, tmp_path_factory.mktemp("runs") / "toy")
    report = {
        "images": 3,
        "segm": {"AP": 61.5, "APs": None, "intervals": {"AP": [50, 70]}},
        "bbox": {"AP": 50.0},
        "weights_sha256": hashlib.sha256((folder / "model_best.safetensors").read_bytes()).hexdigest(),
        "changed_config": {},
    }
    (folder / "evaluation/test").mkdir(parents=True)
    (folder / "evaluation/test/report.json").write_text(json.dumps(report), encoding="utf-8")
    save_point(Run.open(folder), POINT)
    return folder


@pytest.fixture(scope="module")
def archive(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, Options(output=tmp_path_factory.mktemp("store")))


def read(archive: Path, name: str) -> dict:
    with zipfile.ZipFile(archive) as packed:
        return yaml.safe_load(packed.read(name))  # JSON is YAML


def test_archive_carries_what_it_needs_and_nothing_else(archive, run):
    assert archive.name == "maskrcnn_mobilenetv2_fpn.mar"
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
        weights = packed.read("model.safetensors")
    needed = "maskrcnn_handler.py handler/service.py handler/model/predictor.py handler/model/engines/torch_engine.py"
    needed += " finetune/__init__.py finetune/backbones/mobilenetv2.py openvino/trunk.xml openvino/trunk.bin"
    assert set(needed.split()) <= names
    unwanted = r".*\.(pyc|mar|md)|.*__pycache__.*|handler/(build|predict).*|finetune/(?!__init__\.py)[^/]+"
    assert [name for name in names if re.fullmatch(unwanted, name)] == []
    assert weights == (run / "model_best.safetensors").read_bytes()
    card = read(archive, "archive.json")
    expected = {"name": "maskrcnn", "version": "mobilenetv2_fpn", "backbone": "mobilenetv2_fpn"}
    expected |= {"classes": ["balloon"], "evaluation": EVALUATION, "operating_point": POINT.to_json()}
    assert card | expected | {"weights_sha256": hashlib.sha256(weights).hexdigest()} == card
    assert card["training"]["seed"] == 0
    config = read(archive, "config.yaml")
    assert "FINETUNE" not in config
    assert config["MODEL"]["WEIGHTS"] == ""
    manifest = read(archive, "MAR-INF/MANIFEST.json")["model"]
    assert [manifest[f"model{key}"] for key in ("Name", "Version")] == ["maskrcnn", "mobilenetv2_fpn"]
    assert manifest["handler"] == "maskrcnn_handler.py"
    # TorchServe prefers an archive's values to those of `serve start --workers` and `--response-timeout`
    assert read(archive, "model-config.yaml") == {"startupTimeout": 300}


def test_command_writes_what_its_options_say(run, tmp_path, monkeypatch):
    started, execute = [], exporting.execute

    def recorded(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
        started.append(what)
        execute(command, what, env)

    for module in ("archive", "processes"):
        monkeypatch.setattr(f"finetune.export.{module}.execute", recorded)
    options = "--version mobilenetv2_fpn.2 --engine torch --workers 2 --batch-size 4 --fp32"
    store = tmp_path / "new/store"
    done = CliRunner().invoke(cli.export, [str(run), "--output", str(store), *options.split()])
    assert done.exit_code == 0, done.output
    path = store / "maskrcnn_mobilenetv2_fpn.2.mar"
    assert done.stdout.splitlines()[-1] == str(path)
    assert started == ["torch-model-archiver", "the trial of the archive"]
    with zipfile.ZipFile(path) as packed:
        assert not [name for name in packed.namelist() if name.startswith("openvino")]
    assert read(path, "archive.json")["version"] == "mobilenetv2_fpn.2"
    workers = {"minWorkers": 2, "maxWorkers": 2, "batchSize": 4, "maxBatchDelay": 2}
    handler = {"handler": {"precision": "fp32"}}
    assert read(path, "model-config.yaml") == {"startupTimeout": 300} | workers | handler


def test_pth_checkpoint_is_converted_and_overrides_are_served(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "foreign")
    weights = load_file(folder / "model_best.safetensors")
    torch.save({"model": weights}, folder / "model_final.pth")
    options = Options(output=tmp_path, engine="torch", overrides=["MODEL.RPN.POST_NMS_TOPK_TEST", "123"])
    path = export(folder / "model_final.pth", options)
    with zipfile.ZipFile(path) as packed:
        packed.extract("model.safetensors", tmp_path)
    assert all(torch.equal(t, weights[n]) for n, t in load_file(tmp_path / "model.safetensors").items())
    assert read(path, "config.yaml")["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"] == 123


def test_overrides_leave_the_evaluation_out(run, tmp_path):
    assert Run.open(run).evaluation == EVALUATION
    assert Run.open(run, ["INPUT.MIN_SIZE_TEST", "48"]).evaluation is None
    with pytest.raises(UserError, match=r"did you mean INPUT\.MIN_SIZE_TEST"):
        export(run, Options(output=tmp_path, overrides=["INPUT.MIN_SIZE", "480"]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["model_best.safetensors", "config.yaml", "run.json"])
def test_incomplete_run_is_refused(run, tmp_path, missing):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        export(folder, Options(output=tmp_path / "store"))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("version", ["../escape", "", "a b", ".hidden"])
def test_version_is_a_plain_name(run, tmp_path, version):
    with pytest.raises(UserError, match="--version"):
        export(run, Options(version=version, output=tmp_path))


def test_failed_trial_keeps_the_old_archive_and_leaves_nothing_else(run, tmp_path):
    folder, store = shutil.copytree(run, tmp_path / "run"), tmp_path / "store"
    store.mkdir()
    (store / "maskrcnn_mobilenetv2_fpn.mar").write_text("the old one")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("OUT_CHANNELS: 32", "OUT_CHANNELS: 48"))
    with pytest.raises(
        UserError, match=r"trial of the archive failed \(.*does not fit config\.yaml"
    ) as caught:
        export(folder, Options(output=store, engine="torch"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in store.iterdir()] == ["maskrcnn_mobilenetv2_fpn.mar"]
    assert (store / "maskrcnn_mobilenetv2_fpn.mar").read_text() == "the old one"


def test_trial_sees_only_the_archives_own_code(run, tmp_path, monkeypatch):
    # a module that only the source tree has must be missing in the trial, whatever PYTHONPATH says
    source = tmp_path / "source"
    for package in ("handler", "finetune"):
        shutil.copytree(exporting.SOURCE / package, source / package)
    predictor = source / "handler" / "model" / "predictor.py"
    code = predictor.read_text().replace("from __future__ import annotations\n", "")
    predictor.write_text(f"import finetune.errors\n{code}")
    monkeypatch.setattr(exporting, "SOURCE", source)
    monkeypatch.setenv("PYTHONPATH", str(source))
    with pytest.raises(UserError, match=r"No module named 'finetune\.errors'"):
        export(run, Options(output=tmp_path / "store", engine="torch"))
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--max-loss 2", "add --data"),
        ("--data data --max-loss -1", "x>=0"),
        ("--workers 0", "x>=1"),
        ("--engine tensorrt", "is not one of"),
        ("--verson 2", "--version"),
    ],
)
def test_wrong_usage_is_refused(run, tmp_path, arguments, message):
    words = [str(run), "--output", str(tmp_path / "store"), *arguments.split()]
    done = CliRunner().invoke(cli.export, words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "store").exists()


def test_published_checkpoint_holds_everything(run, tmp_path):
    file = tmp_path / "new/toy.safetensors"
    done = CliRunner().invoke(cli.publish, [str(run), str(file)])
    assert (done.exit_code, done.stdout) == (0, f"{file}\n")
    original, published = Run.open(run), Run.open(file)
    for part in ("recorded_config", "record", "classes", "backbone", "evaluation"):
        assert getattr(published, part) == getattr(original, part), part
    assert published.evaluation == EVALUATION
    assert read_point(published) == read_point(original) == POINT
    publish(file, file)
    assert (read_point(Run.open(file)), Run.open(file).record) == (POINT, original.record)
    assert read_point(Run.open(file, ["INPUT.MIN_SIZE_TEST", "64"])) is None
    better = OperatingPoint(0.7, {}, None, "recall ≥ 0.9")
    save_point(Run.open(file), better)
    assert read_point(Run.open(file)) == better, "chosen for the published file itself"
    assert {path.name for path in file.parent.iterdir()} == {"toy.operating_point.json", "toy.safetensors"}
    assert {t.dtype for t in load_file(file).values() if t.is_floating_point()} == {torch.float16}
    published.load_model()


def test_published_checkpoint_needs_a_name_and_classes(copied_run, tmp_path):
    with pytest.raises(UserError, match=r"must end with \.safetensors"):
        publish(copied_run, tmp_path / "toy.pth")
    (copied_run / "run.json").unlink()
    with pytest.raises(UserError, match=r"does not name its classes"):
        publish(copied_run, tmp_path / "toy.safetensors")
