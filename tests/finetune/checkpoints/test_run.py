"""A run is read from its folder or from one file, and damaged parts are refused in one sentence."""

import json

import pytest
import torch

from finetune.checkpoints.run import Run
from finetune.errors import UserError
from finetune.files import sha256_of


def test_folder_and_its_checkpoint_are_the_same_run(toy_run):
    folder, file = Run.open(toy_run), Run.open(toy_run / "model_best.safetensors")
    assert (folder.name, file.name) == ("toy", "model_best")
    for part in ("recorded_config", "record", "classes", "backbone", "weights"):
        assert getattr(folder, part) == getattr(file, part), part
    assert folder.classes == ["balloon"]


def test_overrides_apply_to_the_config_alone(toy_run):
    opened = Run.open(toy_run, ["INPUT.MIN_SIZE_TEST", "48", "MODEL.DEVICE", "cpu"])
    assert opened.config.INPUT.MIN_SIZE_TEST == 48
    assert opened.recorded_config["INPUT"]["MIN_SIZE_TEST"] == 96
    assert opened.evaluation is None


def test_paths_of_the_training_machine_stay_there(copied_run):
    config, record = copied_run / "config.yaml", json.loads((copied_run / "run.json").read_text())
    config.write_text(config.read_text().replace("INIT: coco", "INIT: /home/me/a.pth"))
    record |= {
        "init": {"weights": "/home/me/a.pth", "source": "https://host/b/c.pth"},
        "command": "maskrcnn train --data /home/me/data",
    }
    (copied_run / "run.json").write_text(json.dumps(record))
    opened = Run.open(copied_run)
    assert opened.recorded_config["FINETUNE"]["INIT"] == "a.pth"
    assert opened.record["init"] == {"weights": "a.pth", "source": "https://host/b/c.pth"}
    assert opened.record["command"] == "maskrcnn train --data data"


@pytest.mark.parametrize(
    ("change", "evaluated"),
    [({}, True), ({"weights_sha256": "0"}, False), ({"changed_config": {"INPUT.MIN_SIZE_TEST": 480}}, False)],
    ids=["same", "other weights", "other settings"],
)
def test_evaluation_is_of_these_weights_with_this_config(copied_run, change, evaluated):
    report = {"images": 3, "segm": {"AP": 61.5, "intervals": {"AP": [50, 70]}}, "bbox": None}
    report["changed_config"] = {}
    report |= {"weights_sha256": sha256_of(copied_run / "model_best.safetensors")} | change
    (copied_run / "evaluation/val").mkdir(parents=True)
    (copied_run / "evaluation/val/report.json").write_text(json.dumps(report))
    expected = {"split": "val", "images": 3, "segm": {"AP": 61.5}, "bbox": {}}
    assert Run.open(copied_run).evaluation == (expected if evaluated else None)
    assert Run.open(copied_run, ["MODEL.DEVICE", "cpu"]).evaluation == Run.open(copied_run).evaluation


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_best.safetensors", None, "holds no model_best.safetensors"),
        ("config.yaml", None, "put its run's config.yaml beside it"),
        ("config.yaml", "MODEL: [", "config.yaml .* cannot be read"),
        ("config.yaml", "just words", "config.yaml .* cannot be read"),
        ("config.yaml", "MODEL: {NOVEL: 1}", r"MODEL\.NOVEL"),
        ("config.yaml", "MODEL: {BACKBONE: {NAME: build_swin}}", "none of our backbones"),
        ("run.json", "{", "run.json cannot be read"),
        ("run.json", "[]", "run.json cannot be read"),
        ("run.json", None, None),
    ],
)
def test_damaged_part_is_one_sentence(copied_run, name, content, message):
    if content is None:
        (copied_run / name).unlink()
    else:
        (copied_run / name).write_text(content)
    if message is None:
        assert Run.open(copied_run).classes is None
        return
    with pytest.raises(UserError, match=message) as error:
        Run.open(copied_run).load_model()
    assert "\n" not in str(error.value)


def test_missing_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no run and no checkpoint at"):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        Run.open(tmp_path / "cut.safetensors")


def test_model_must_be_filled_completely(copied_run):
    config = copied_run / "config.yaml"
    config.write_text(config.read_text().replace("FC_DIM: 64", "FC_DIM: 48"))
    with pytest.raises(UserError, match=r"does not fit its config: .* tensors such as roi_heads"):
        Run.open(copied_run).load_model()


def test_training_state_comes_back(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(UserError, match=r"holds no last\.pth"):
        run.load_last()
    run.save_last({"step": 3, "model": {"a": torch.ones(2)}})
    state = run.load_last()
    assert state["step"] == 3
    assert torch.equal(state["model"]["a"], torch.ones(2))
    (tmp_path / "last.pth").write_bytes((tmp_path / "last.pth").read_bytes()[:100])
    with pytest.raises(UserError, match=r"last\.pth is damaged"):
        run.load_last()
