"""``evaluate`` and ``compare`` from the command line, on a toy model and drawn photos."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune import cli
from finetune.backbones import load_config
from finetune.checkpoints.run import Run, backbone_of
from finetune.configs.keys import get_config
from finetune.evaluation import compare
from finetune.evaluation.matching import ImageScore
from finetune.evaluation.plots import draw_comparison, draw_truth_and_prediction
from finetune.evaluation.report_files import new_folder

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
CLASSES = ["ball", "box"]
TOY = (
    "MODEL.DEVICE cpu INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 10 MODEL.FPN.OUT_CHANNELS 16 "
    "MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.ROI_HEADS.NUM_CLASSES 2"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "images").mkdir()
    images, annotations = [], []
    for i in range(3):
        Image.fromarray(np.full((80, 120, 3), 60 * i, np.uint8)).save(root / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"images/{i}.png", "width": 120, "height": 80})
        if i:
            polygon = [10, 10, 60, 10, 60, 50, 10, 50]
            annotations.append(
                {"id": i, "image_id": i + 1, "category_id": i, "bbox": [10, 10, 50, 40], "area": 2000,
                 "segmentation": [polygon]}
            )  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (root / "test.json").write_text(json.dumps(coco))
    card = {"name": "balloon", "classes": CLASSES, "source": "drawn", "splits": {"test": 3}}
    (root / "dataset.json").write_text(json.dumps(card))
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "toy"
    path.mkdir()
    cfg = get_config("mobilenetv2_fpn", TOY.split())
    save_file(build_model(cfg).state_dict(), path / "model_best.safetensors", {"format": "pt"})
    (path / "config.yaml").write_text(cfg.dump())
    record = {
        "backbone": "mobilenetv2_fpn", "classes": CLASSES, "init": {"weights": "folder/imagenet.pth"},
        "iterations": 20, "seed": 3, "seconds": 90.0, "machine": "a toaster",
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def evaluated(trained, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluated") / "toy"
    shutil.copytree(trained, path)
    overrides = ["MODEL.RPN.POST_NMS_TOPK_TEST", "8"]
    assert cli.main(["evaluate", str(path), "--data", str(data), *overrides]) == 0
    return path


def width_of(path):
    with Image.open(path) as image:
        return image.size[0]


def test_report(evaluated):
    folder = evaluated / "evaluation" / "test"
    report = json.loads((folder / "report.json").read_text())
    assert report["data"] == {"name": "balloon", "split": "test", "classes": CLASSES}
    assert (report["images"], report["objects"]) == (3, 2)
    assert report["segm"]["APl"] is None  # 2000 pixels are medium
    assert report["segm"]["APm"] is not None
    assert set(report["segm"]["per_class"]) == set(CLASSES)
    assert report["proposals"] == 8
    assert report["latency_ms"]["median"] > 0
    assert report["training"]["iterations"] == 20
    text = (folder / "report.md").read_text()
    assert "n/a" in text
    assert "from imagenet.pth weights" in text
    assert width_of(folder / "pr_curve.png") > 500
    assert [entry["drawn"] for entry in report["worst"]] == sorted(p.name for p in folder.glob("worst_*.jpg"))
    qualities = [entry["quality"] for entry in report["worst"]]
    assert qualities == sorted(qualities)
    assert not list(folder.parent.glob(".*"))


def test_checkpoint_with_its_config_inside(trained, data, tmp_path, capsys):
    metadata = {
        "format": "pt",
        "config": load_config(trained / "config.yaml").dump(),
        "classes": json.dumps(CLASSES),
        "run": (trained / "run.json").read_text(),
    }
    tensors = {name: t.half() for name, t in load_file(trained / "model_best.safetensors").items()}
    path = tmp_path / "starter.safetensors"
    save_file(tensors, path, metadata)
    output = tmp_path / "report"
    assert (
        cli.main(["evaluate", str(path), "--data", str(data), "--output", str(output), "--worst", "0"]) == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == str(output / "report.md")
    assert json.loads((output / "report.json").read_text())["training"]["seed"] == 3


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path):
    target = tmp_path / "report"
    for text in ("first", "second"):
        with new_folder(target, marker="report.json") as folder:
            (folder / "report.json").write_text(text)
            (folder / f"{text}.txt").touch()
    assert sorted(path.name for path in target.iterdir()) == ["report.json", "second.txt"]
    with contextlib.suppress(ZeroDivisionError), new_folder(target, marker="report.json") as folder:
        (folder / "report.json").write_text(f"third {1 / 0}")
    assert (target / "report.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def break_run(kind, run):
    if kind == "no weights":
        (run / "model_best.safetensors").unlink()
    elif kind == "no config":
        (run / "config.yaml").unlink()
    elif kind == "broken config":
        (run / "config.yaml").write_text("MODEL: [")
    elif kind == "foreign config":
        (run / "config.yaml").write_text("MODEL:\n  NOVEL: 1\n")
    elif kind == "cut weights":
        weights = run / "model_best.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "other width":
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("FC_DIM: 16", "FC_DIM: 24"))
    elif kind == "broken record":
        (run / "run.json").write_text("{")
    elif kind == "other classes":
        (run / "run.json").write_text(json.dumps({"classes": ["cat", "dog"]}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no weights", "holds no model_best.safetensors"),
        ("no config", "put its run's config.yaml beside it"),
        ("broken config", "cannot be read"),
        ("foreign config", "MODEL.NOVEL"),
        ("cut weights", "cannot be read"),
        ("other width", "does not fit its config"),
        ("broken record", "cannot be read"),
        ("other classes", "knows the classes cat, dog"),
    ],
)
def test_broken_run_is_one_sentence(kind, message, trained, data, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    break_run(kind, run)
    assert cli.main(["evaluate", str(run), "--data", str(data)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert not (run / "evaluation" / "test").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run and no checkpoint at nowhere"),
        (["RUN", "--split", "val"], "no split 'val'"),
        (["RUN", "--score", "2"], "--score is a probability"),
        (["RUN", "MODEL.NOVEL", "2"], "there is no config key MODEL.NOVEL"),
    ],
)
def test_bad_arguments(arguments, message, trained, data, capsys):
    arguments = [str(trained) if a == "RUN" else a for a in arguments]
    assert cli.main(["evaluate", *arguments, "--data", str(data)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("backbone", ["resnet50_fpn", "resnet101_fpn", "mobilenetv2_fpn", "vovnet19_fpn"])
def test_backbone_is_known_from_the_config(backbone):
    assert backbone_of(get_config(backbone)) == backbone


def test_load_model_gives_the_weights(trained):
    model = Run.open(trained, ["MODEL.DEVICE", "cpu"]).load_model()
    saved = load_file(trained / "model_best.safetensors")
    assert not model.training
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_compare(evaluated, trained, tmp_path, capsys):
    output = tmp_path / "comparison"
    assert cli.main(["compare", str(evaluated), str(trained), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(output / "comparison.md")
    rows = json.loads((output / "comparison.json").read_text())["rows"]
    assert [row["evaluated"] for row in rows] == [True, False]
    assert rows[0]["latency_ms"] > 0
    text = (output / "comparison.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| toy")]
    assert "not measured" not in lines[0]
    assert lines[1].count("not measured") == 7  # six APs and the latency
    assert "| the original | mobilenetv2_fpn | 50.8 | 62.7 |" in text
    assert width_of(output / "comparison.png") > 500


def test_compare_takes_the_benchmarks_latency(evaluated, tmp_path):
    measured = json.loads((RESULTS / "bench_predictor.json").read_text())
    medians = {
        row["contestant"]: row["median_ms"]
        for row in measured["rows"]
        if row["backbone"] == "mobilenetv2_fpn"
    }
    row = compare.row_of(evaluated, "test", compare.read_bench([RESULTS / "bench_predictor.json"]))
    assert row["latency_ms"] == medians["ours openvino-bf16"] == min(medians.values())
    assert row["latency_machine"] == "AMD EPYC, 2 cores, short side 800"
    other = compare.row_of(evaluated, "test", {"machine": "none", "latency_ms": {}})
    assert other["latency_ms"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no run and no report"),
        (["RUN", "--bench", "nowhere.json"], "there is no benchmark at nowhere.json"),
        (["RUN", "--bench", "RUN/run.json"], "is not what `make bench` wrote"),
        (["RUN/evaluation/test", "--split", "val"], "is a report of the test split"),
    ],
)
def test_compare_refuses(arguments, message, evaluated, tmp_path, capsys):
    arguments = [a.replace("RUN", str(evaluated)) for a in arguments]
    assert cli.main(["compare", *arguments, "--output", str(tmp_path / "c")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_drawn_photo_marks_right_and_wrong(tmp_path):
    Image.new("RGB", (400, 200), "black").save(tmp_path / "photo.png")
    square = [[20, 20, 100, 20, 100, 100, 20, 100]]
    record = {
        "file_name": str(tmp_path / "photo.png"), "width": 400, "height": 200,
        "annotations": [{"segmentation": square, "category_id": 0}],
    }  # fmt: skip
    missed = draw_truth_and_prediction(record, 7, [], ImageScore(1, 1, (), (), (), 0.0), ["a"])
    found = draw_truth_and_prediction(record, 7, [], ImageScore(1, 1, (7,), (), (), 0.9), ["a"])
    inside = np.asarray(missed)[34 + 40 : 34 + 80, 40:80].reshape(-1, 3)
    assert {tuple(pixel) for pixel in inside} == {(0, 0, 0), (0xD5, 0x5E, 0)}  # striped
    assert not np.asarray(found)[34 + 40 : 34 + 80, 40:80].any()  # outlined only


def test_comparison_without_points_says_so(tmp_path):
    rows = [{"name": "a", "latency_ms": None, "segm": None}, {"name": "b", "latency_ms": 9.0, "segm": None}]
    draw_comparison(rows, "nothing", "ms", tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000
