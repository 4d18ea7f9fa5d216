import argparse
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from finetune.checkpoints.run import read_trained
from finetune.data.synthetic import make_synthetic
from finetune.errors import UserError
from finetune.export import archive as command
from finetune.export.archive import Options, add_parser, export
from tests.toy_models import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    write_run(folder)
    report = {
        "images": 3,
        "segm": {"AP": 61.5, "APs": None, "intervals": {"AP": [50, 70]}},
        "bbox": {"AP": 50.0},
        "weights_sha256": hashlib.sha256((folder / "model_best.safetensors").read_bytes()).hexdigest(),
        "overrides": [],
    }
    (folder / "evaluation/test").mkdir(parents=True)
    (folder / "evaluation/test/report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def archive(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, Options(output=tmp_path_factory.mktemp("store"), batch_size=4))


@pytest.mark.parametrize(
    "change",
    [{"weights_sha256": "0" * 64}, {"overrides": ["INPUT.MIN_SIZE_TEST", "480"]}],
    ids=["weights", "settings"],
)
def test_a_report_of_something_else_is_not_its_evaluation(run: Path, tmp_path: Path, change: dict) -> None:
    assert read_trained(run).evaluation == {
        "split": "test",
        "images": 3,
        "bbox": {"AP": 50.0},
        "segm": {"AP": 61.5, "APs": None},
    }
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / "evaluation/test/report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_trained(copy).evaluation is None


def test_the_archive_carries_all_it_needs(archive: Path, run: Path) -> None:
    assert archive.name == "maskrcnn_mobilenetv2_fpn.mar"
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
        card = json.loads(packed.read("archive.json"))
        config = yaml.safe_load(packed.read("config.yaml"))
        served = yaml.safe_load(packed.read("model-config.yaml"))
        manifest = json.loads(packed.read("MAR-INF/MANIFEST.json"))
        weights = packed.read("model.safetensors")
    assert {
        *(
            "maskrcnn_handler.py",
            "handler/model/predictor.py",
            "handler/model/engines/torch_engine.py",
            "finetune/__init__.py",
        ),
        *("finetune/backbones/mobilenetv2.py", "openvino/trunk.xml", "openvino/trunk.bin"),
    } <= names
    assert not [name for name in names if name.endswith((".pyc", ".mar"))]
    assert "finetune/errors.py" not in names
    assert weights == (run / "model_best.safetensors").read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (card["name"], card["version"], card["backbone"]) == (
        "maskrcnn",
        "mobilenetv2_fpn",
        "mobilenetv2_fpn",
    )
    assert card["classes"] == ["balloon"]
    assert card["training"]["seed"] == 0
    assert card["evaluation"] == {
        "split": "test",
        "images": 3,
        "bbox": {"AP": 50.0},
        "segm": {"AP": 61.5, "APs": None},
    }
    assert "FINETUNE" not in config
    assert config["MODEL"]["WEIGHTS"] == ""
    assert (served["minWorkers"], served["maxWorkers"], served["batchSize"]) == (1, 1, 4)
    assert manifest["model"]["modelName"] == "maskrcnn"
    assert manifest["model"]["modelVersion"] == "mobilenetv2_fpn"
    assert manifest["model"]["handler"] == "maskrcnn_handler.py"


def test_the_handler_understands_the_model_config(archive: Path) -> None:
    from handler.api.settings import parse_settings

    with zipfile.ZipFile(archive) as packed:
        section = yaml.safe_load(packed.read("model-config.yaml"))["handler"]
    assert parse_settings(section, ["balloon"]).engine == "auto"


def test_an_archive_for_torch_alone_has_a_version_of_its_own(run: Path, tmp_path: Path) -> None:
    path = export(run, Options(version="mobilenetv2_fpn.2", output=tmp_path / "new/store", engine="torch"))
    assert path == tmp_path / "new/store/maskrcnn_mobilenetv2_fpn.2.mar"
    with zipfile.ZipFile(path) as packed:
        assert not [name for name in packed.namelist() if name.startswith("openvino")]
        assert json.loads(packed.read("archive.json"))["version"] == "mobilenetv2_fpn.2"


def test_a_run_can_be_served_with_another_config(run: Path, tmp_path: Path) -> None:
    options = Options(output=tmp_path, engine="torch", overrides=["MODEL.RPN.POST_NMS_TOPK_TEST", "123"])
    with zipfile.ZipFile(export(run, options)) as packed:
        assert yaml.safe_load(packed.read("config.yaml"))["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"] == 123
        assert json.loads(packed.read("archive.json"))["evaluation"] is None
    with pytest.raises(UserError, match=r"did you mean INPUT\.MIN_SIZE_TEST"):
        export(run, Options(output=tmp_path, overrides=["INPUT.MIN_SIZE", "480"]))


@pytest.mark.parametrize("missing", ["model_best.safetensors", "config.yaml", "run.json"])
def test_a_run_that_is_not_complete_is_refused(run: Path, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        export(folder, Options(output=tmp_path / "store"))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("version", ["../escape", "", "a b", ".hidden"])
def test_a_version_is_a_plain_name(run: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(UserError, match="--version"):
        export(run, Options(version=version, output=tmp_path))


def test_a_failed_trial_leaves_the_old_archive_and_nothing_else(run: Path, tmp_path: Path) -> None:
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


def test_the_archive_is_tried_without_the_repository(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a package that only the repository has must be missed by the trial, whatever PYTHONPATH says
    source = tmp_path / "source"
    for package in ("handler", "finetune"):
        shutil.copytree(command.SOURCE / package, source / package)
    predictor = source / "handler" / "model" / "predictor.py"
    predictor.write_text(
        "import finetune.errors\n" + predictor.read_text().replace("from __future__ import annotations\n", "")
    )
    monkeypatch.setattr(command, "SOURCE", source)
    monkeypatch.setenv("PYTHONPATH", str(source))
    with pytest.raises(UserError, match=r"No module named 'finetune\.errors'"):
        export(run, Options(output=tmp_path / "store", engine="torch"))
    assert not list((tmp_path / "store").iterdir())


def test_the_command_prints_the_path(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(
        ["export", str(run), "--output", str(tmp_path), "--engine", "torch", "--workers", "2"]
    )
    assert args.run(args) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "maskrcnn_mobilenetv2_fpn.mar")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--int8"], "go together"),
        (["--calibration", "data"], "go together"),
        (["--precision", "int8"], "add --int8"),
        (["--int8", "--calibration", "data", "--engine", "torch"], "leave --engine torch out"),
    ],
)
def test_flags_that_clash_are_refused(run: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["export", str(run), "--output", str(tmp_path / "store"), *arguments])
    with pytest.raises(UserError, match=said):
        args.run(args)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_int8_is_tried_measured_and_recorded(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_synthetic(data, images=8, size=(128, 96))
    path = export(run, Options(output=tmp_path / "store", calibration=data, precision="int8"))
    with zipfile.ZipFile(path) as packed:
        card = json.loads(packed.read("archive.json"))
        assert "openvino/trunk_int8.bin" in packed.namelist()
        assert yaml.safe_load(packed.read("model-config.yaml"))["handler"]["precision"] == "int8"
    assert card["int8"]["calibration"]["split"] == "val"
    assert card["int8"]["calibration"]["images"] > 0
    assert card["int8"]["split"] == "test"
    assert set(card["int8"]["int8"]["segm"]) == {"AP", "AP50"}
    loss = card["int8"]["fp32"]["segm"]["AP"] - card["int8"]["int8"]["segm"]["AP"]
    assert card["int8"]["segm_AP_loss"] == pytest.approx(loss, abs=0.01)
