"""``export --data``: the archive is measured by its own code, and the 8-bit model is kept where it is worth having."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from finetune.checkpoints.run import Run
from finetune.data.dataset import load_split
from finetune.data.synthetic import make_synthetic
from finetune.errors import UserError
from finetune.evaluation.inference import evaluate_model
from finetune.export import archive as exporting
from finetune.export import served as measuring
from finetune.export.archive import Options, export
from handler.service import Service
from tests.conftest import REPOSITORY


def card_of(archive: Path) -> dict[str, Any]:
    with zipfile.ZipFile(archive) as packed:
        return json.loads(packed.read("archive.json"))


def test_card_says_what_the_archive_reaches(toy_run, toy_data, tmp_path):
    served = card_of(export(toy_run, Options(output=tmp_path, data=toy_data, fp32=True)))["served"]
    running = {name: served[name] for name in ("split", "images", "precision", "engine", "device")}
    expected = {"split": "val", "images": 2, "precision": "fp32", "engine": "openvino", "device": "cpu"}
    assert running == expected
    opened = Run.open(toy_run)
    trained = evaluate_model(opened.load_model(), load_split(toy_data, "val"), ["balloon"], opened.config)
    assert served["training"] == trained
    for kind in ("segm", "bbox"):
        assert served[kind]["AP50"] == pytest.approx(trained[kind]["AP50"], abs=1)
        assert trained[kind]["AP50"] > 99
    assert served["segm_AP_loss"] == round(trained["segm"]["AP"] - served["segm"]["AP"], 2) <= 1


@pytest.mark.parametrize("max_loss", [1.0, float("nan")])
def test_archive_that_loses_ap_is_refused(toy_run, toy_data, tmp_path, monkeypatch, max_loss):
    for package in ("handler", "finetune"):
        shutil.copytree(REPOSITORY / package, tmp_path / "source" / package)
    responses = tmp_path / "source/handler/api/responses.py"
    code = responses.read_text()
    assert code.count("    return results\n") == 1
    responses.write_text(code.replace("    return results\n", "    return results[1:]\n"))
    monkeypatch.setattr(exporting, "SOURCE", tmp_path / "source")
    options = Options(output=tmp_path / "store", engine="torch", data=toy_data, max_loss=max_loss)
    with pytest.raises(UserError, match=r"points of mask AP on val .* more than --max-loss .* try --fp32"):
        export(toy_run, options)
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["mug"]}, "trained on the classes balloon, but .* has mug"),
        ({"annotations": []}, "the split val of .* has no objects"),
    ],
)
def test_data_that_cannot_measure_are_refused(toy_run, toy_data, tmp_path, change, message):
    root = shutil.copytree(toy_data, tmp_path / "data")
    for name in ("dataset.json", "val.json"):
        content = json.loads((root / name).read_text())
        (root / name).write_text(json.dumps(content | {k: v for k, v in change.items() if k in content}))
    with pytest.raises(UserError, match=message):
        export(toy_run, Options(output=tmp_path / "store", engine="torch", data=root))


SAVES, SAVES_LITTLE = {"bf16": 300, "int8": 200}, {"bf16": 200, "int8": 181}
CRASH = UserError("its calibration failed (it crashed with SIGSEGV)")


@pytest.mark.parametrize(
    ("device", "times", "loss", "said"),
    [
        ("cpu", SAVES, 1.0, "becomes the CPU's default: a photo takes 300 ms in bf16, 200 ms in int8"),
        ("cpu", SAVES, 1.01, "left out: it loses 1.01 points of mask AP, more than 1"),
        ("cpu", SAVES, float("nan"), "left out: it loses nan points"),
        ("cpu", SAVES_LITTLE, 0.0, "left out: it does not save a tenth of the time here (a photo takes"),
        ("cpu", CRASH, 0.0, "failed (it crashed"),
        ("cuda:0", {}, 0.0, "left out: this machine serves on its GPU"),
    ],
)
def test_int8_is_kept_where_it_is_faster_and_loses_little(
    tmp_path, monkeypatch, capsys, device, times, loss, said
):
    staged = tmp_path / "staged"
    (staged / "openvino").mkdir(parents=True)
    for name in ("trunk.xml", "trunk_int8.xml", "trunk_int8.bin"):
        (staged / "openvino" / name).touch()

    def quantize(root: Path, tool: str, *arguments: Any, what: str) -> None:
        if isinstance(times, UserError):
            raise times
        assert tool == "quantize.py"
        _, photos, precision, answer = arguments
        assert (len(json.loads(photos.read_text())), precision) == (32, "bf16")
        answer.write_text(json.dumps(times))

    monkeypatch.setattr(measuring, "run_tool", quantize)
    records = [{"image_id": i, "file_name": f"{i}.jpg"} for i in range(70)]
    served = {"precision": "bf16", "device": device, "segm_AP_loss": 0.1}
    measured = {"precision": "int8", "segm_AP_loss": loss, "segm": {"AP": 70.0}}
    kept = measuring.try_int8(staged, served, records, lambda: measured, 1.0)
    files = {path.name for path in (staged / "openvino").iterdir()}
    assert said in capsys.readouterr().err
    if "becomes" in said:
        assert kept == measured | {"median_ms": times, "calibration": {"split": "train", "images": 32}}
        assert {"trunk.xml", "trunk_int8.xml", "trunk_int8.bin"} == files
    else:
        assert (kept, files) == (served, {"trunk.xml"})


@pytest.mark.slow
def test_starter_is_served_in_int8_where_that_pays(tmp_path, capsys):
    data = tmp_path / "data"
    make_synthetic(data, images=10, size=(320, 240))
    starter = REPOSITORY / "model_store/mobilenetv2_fpn_starter.safetensors"
    path = export(starter, Options(output=tmp_path, data=data, max_loss=5))
    shutil.unpack_archive(path, tmp_path / "unpacked", "zip")
    card, said = card_of(path), capsys.readouterr().err
    served = card["served"]
    assert served["segm_AP_loss"] <= 5
    assert served["segm"]["AP"] > 30
    in_8_bits = "int8 becomes the CPU's default" in said
    assert in_8_bits or re.search(r"int8 is left out: it (loses|does not save)", said), said
    assert (tmp_path / "unpacked/openvino/trunk_int8.xml").is_file() is in_8_bits
    service = Service.load(tmp_path / "unpacked", device="cpu")
    assert service.predictor.precision == served["precision"]
    assert (served["precision"] == "int8") is in_8_bits
