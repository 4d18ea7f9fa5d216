"""``evaluate`` and ``compare`` on a toy model and drawn photos."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.checkpoints.run import Run
from finetune.data.dataset import Instance, Photo, write_dataset
from finetune.errors import UserError
from finetune.evaluation import report
from finetune.evaluation.operating_point import OperatingPoint, read_point, save_point
from finetune.evaluation.photo_scores import ImageScore
from finetune.evaluation.plots import draw_ap_against_time, draw_truth_and_prediction
from tests.commands import finetune
from tests.toy_models import write_run

CLASSES = ["ball", "box"]
POINT = OperatingPoint(0.07, {"ball": 0.3}, 0.6, "best F1")
VAL = {"photos": 7, "mean": 0.1, "std": 0.05}


def evaluate(*words: object) -> int:
    return finetune(["evaluate", *words])


def compare(*words: object) -> int:
    return finetune(["compare", *words])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos to test on: an empty one, and one object of each class."""
    folder = tmp_path_factory.mktemp("photos")
    square = [[10, 10, 60, 10, 60, 50, 10, 50]]
    photos = []
    for i, instances in enumerate([[], [Instance(0, square)], [Instance(1, square)]]):
        Image.fromarray(np.full((80, 120, 3), 60 * i, np.uint8)).save(folder / f"{i}.png")
        photos.append(Photo(f"{i}.png", (folder / f"{i}.png").read_bytes(), 120, 80, instances))
    splits = {"train": photos[1:2], "test": photos}
    write_dataset(folder / "data", name="shapes", classes=CLASSES, source="drawn", splits=splits)
    return folder / "data"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "toy"
    write_run(run, classes=CLASSES)
    record = json.loads((run / "run.json").read_text())
    record |= {"iterations": 20, "seconds": 90.0, "machine": "a toaster"}
    record["init"] = {"weights": "folder/imagenet.pth"}
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="module")
def evaluated(trained: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("evaluated") / "toy"))
    assert evaluate(run, "--data", data, "MODEL.DEVICE", "cpu", "MODEL.RPN.POST_NMS_TOPK_TEST", "8") == 0
    return run


def width_of(path: Path) -> int:
    with Image.open(path) as image:
        return image.size[0]


def test_report(evaluated):
    folder = evaluated / "evaluation" / "test"
    figures = json.loads((folder / "report.json").read_text())
    assert figures["data"] == {"name": "shapes", "split": "test", "classes": CLASSES}
    assert (figures["images"], figures["objects"], figures["proposals"]) == (3, 2, 8)
    assert figures["segm"]["APl"] is None  # 2000 pixels are medium
    assert figures["segm"]["APm"] is not None
    assert set(figures["segm"]["per_class"]) == set(CLASSES)
    assert figures["latency_ms"]["median"] > 0
    assert figures["training"]["iterations"] == 20
    text = (folder / "report.md").read_text()
    assert "n/a" in text
    assert "from imagenet.pth weights" in text
    assert width_of(folder / "curves.png") > 500
    assert [entry["drawn"] for entry in figures["worst"]] == sorted(
        p.name for p in folder.glob("worst_*.jpg")
    )
    qualities = [entry["quality"] for entry in figures["worst"]]
    assert qualities == sorted(qualities)
    assert not list(folder.parent.glob(".*"))


@pytest.fixture
def chosen(trained: Path, data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run with an operating point, and its data, which has a val split."""
    run, folder = tmp_path / "toy", tmp_path / "data"
    shutil.copytree(trained, run)
    shutil.copytree(data, folder)
    shutil.copy(folder / "test.json", folder / "val.json")
    save_point(Run.open(run), POINT)
    return run, folder


def test_val_chooses_and_keeps_the_point_beside_the_weights(chosen, tmp_path, monkeypatch):
    """Wherever the report goes, and with overrides that change no prediction. A random model finds nothing."""
    run, data = chosen
    monkeypatch.setattr(report, "choose", lambda *_: replace(POINT, score_threshold=0.2))
    monkeypatch.setattr(report, "uncertainty", lambda _: VAL)
    elsewhere = ["--split", "val", "--output", tmp_path / "report", "--worst", 0, "MODEL.DEVICE", "cpu"]
    assert evaluate(run, "--data", data, *elsewhere) == 0
    assert read_point(Run.open(run)) == replace(POINT, score_threshold=0.2, uncertainty=VAL)
    assert "Chosen on the val split by best F1" in (tmp_path / "report/report.md").read_text()
    monkeypatch.setattr(report, "choose", lambda *_: OperatingPoint())
    assert evaluate(run, "--data", data, *elsewhere) == 0
    assert read_point(Run.open(run)) is None, "what was chosen earlier is gone"


def test_other_splits_are_measured_at_the_operating_point(chosen, tmp_path, capsys):
    run, data = chosen
    capsys.readouterr()
    assert evaluate(run, "--data", data, "--negatives", data / "images", "MODEL.DEVICE", "cpu") == 0
    folder = run / "evaluation/test"
    figures = json.loads((folder / "report.json").read_text())
    assert figures["operating_point"] == POINT.to_json()
    said = capsys.readouterr()
    assert "score ≥ 0.07, ball ≥ 0.3: " in said.out
    assert "operating point" not in said.err
    assert figures["false_alarms"]["photos without objects"]["photos"] == 1
    assert figures["false_alarms"]["the photos of images"]["photos"] == 4
    text = (folder / "report.md").read_text()
    for words in ("Chosen on the val split by best F1", "more than 0.6", "- the photos of images: "):
        assert words in text
    assert str(tmp_path) not in text
    assert np.sum(figures["confusion"]) >= figures["objects"]
    assert read_point(Run.open(run)) == POINT, "val alone chooses"


HARMLESS = "MODEL.DEVICE cpu SOLVER.BASE_LR 1 INPUT.MIN_SIZE_TRAIN [64]"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [("", ""), (HARMLESS, ""), ("INPUT.MIN_SIZE_TEST 64", "chosen for other weights or another config")],
)
def test_a_point_survives_harmless_overrides(chosen, monkeypatch, capsys, overrides, reason):
    monkeypatch.chdir(chosen[0])  # another folder, and the run named by a relative path
    point = read_point(Run.open(Path("../toy"), overrides.split()))
    assert (point is None) == bool(reason)
    assert reason in capsys.readouterr().err


def test_a_point_that_does_not_hold_is_left_out_with_a_sentence(chosen, capsys):
    run = Run.open(chosen[0], ["INPUT.MIN_SIZE_TEST", "64"])
    save_point(run, POINT)
    assert read_point(run) == POINT
    assert read_point(Run.open(run.path)) is None
    assert "from score 0.5 on; choose with `maskrcnn evaluate" in capsys.readouterr().err

    document = json.loads(run.beside("operating_point.json").read_text())
    run.beside("operating_point.json").write_text(json.dumps(document | {"weights_sha256": "0"}))
    assert read_point(run) is None
    assert "chosen for other weights" in capsys.readouterr().err

    run.beside("operating_point.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read as an operating point: choose again"):
        read_point(run)

    save_point(run, OperatingPoint())  # nothing was found on val
    assert read_point(run) is None
    assert "has no operating point: detections are shown from score 0.5 on" in capsys.readouterr().err


def test_a_damaged_point_inside_a_checkpoint_names_the_checkpoint(trained, monkeypatch):
    run = Run.open(trained / "model_best.safetensors")
    monkeypatch.setattr(run, "published", lambda key: {"score_threshold": 0.7})
    with pytest.raises(UserError, match=r"model_best\.safetensors cannot be read as an operating point"):
        read_point(run)


def test_a_checkpoint_file_and_its_table(trained, data, tmp_path, capsys):
    output = tmp_path / "report"
    weights = trained / "model_best.safetensors"
    assert evaluate(weights, "--data", data, "--output", output, "--worst", 0, "MODEL.DEVICE", "cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(output / "report.md")
    assert max(map(len, lines[:-1])) <= 80
    assert json.loads((output / "report.json").read_text())["training"]["seconds"] == 90


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("nowhere", 1, "there is no run and no checkpoint at nowhere"),
        ("RUN --split val", 1, "no split 'val'"),
        ("RUN MODEL.NOVEL 2", 1, "there is no config key MODEL.NOVEL"),
        ("RUN --split val --min-precision 2", 2, "2.0 is not in the range 0<x<=1"),
        ("RUN --min-recall 0.9", 2, "add --split val"),
        ("RUN --split val --min-recall 0.9 --min-precision 0.9", 2, "exclude each other"),
        ("RUN --negatives DATA/nothing", 1, "nothing is not there"),
        ("RUN --worst many", 2, "'many' is not a valid integer"),
        ("RUN --output DATA", 1, "is not an earlier report"),
    ],
)
def test_evaluate_refuses(words, status, message, trained, data, capsys):
    words = words.replace("RUN", str(trained)).replace("DATA", str(data))
    assert evaluate(*words.split(), "--data", data) == status
    assert message in capsys.readouterr().err
    assert (data / "dataset.json").exists()


def test_other_classes_are_refused(trained, data, tmp_path, capsys):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"classes": ["cat", "dog"]}))
    assert evaluate(run, "--data", data) == 1
    assert "trained on the classes cat, dog" in capsys.readouterr().err
    assert not (run / "evaluation").exists()


def test_compare(evaluated, tmp_path, capsys):
    output, other = tmp_path / "comparison", Path(shutil.copytree(evaluated, tmp_path / "other"))
    report = json.loads((other / "evaluation/test/report.json").read_text())
    del report["training"]["seconds"]
    (other / "evaluation/test/report.json").write_text(json.dumps(report))
    assert compare(evaluated / "evaluation/test", other, "--output", output) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(output / "comparison.md")
    assert max(map(len, printed[:-1])) <= 80
    assert json.loads((output / "comparison.json").read_text())["reports"][1] == report
    first, second = (
        line for line in (output / "comparison.md").read_text().splitlines() if line.startswith("| toy")
    )
    assert first.endswith(f"| {report['latency_ms']['median']:.0f} | imagenet.pth | 20 | 2 min, a toaster |")
    assert second.endswith("| imagenet.pth | 20 | unknown |")
    assert width_of(output / "comparison.png") > 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere", "nowhere has no report on the split test: run `maskrcnn evaluate nowhere` first"),
        ("RUN/evaluation/test --split val", "is no report on the split val"),
    ],
)
def test_compare_refuses(words, message, evaluated, tmp_path, capsys):
    assert compare(*words.replace("RUN", str(evaluated)).split(), "--output", tmp_path / "c") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_drawn_photo_marks_right_and_wrong(tmp_path):
    Image.new("RGB", (400, 200), "black").save(tmp_path / "photo.png")
    annotation = {"segmentation": [[20, 20, 180, 20, 180, 180, 20, 180]], "category_id": 0}
    record = {"file_name": str(tmp_path / "photo.png"), "width": 400, "height": 200}

    def color_of_truth(score: ImageScore) -> np.ndarray:
        draw_truth_and_prediction(
            record | {"annotations": [annotation]}, 7, [], score, ["a"], tmp_path / "page.png"
        )
        page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
        height, width = page.shape[:2]
        return page[int(0.55 * height), int(0.12 * width)]

    red, _, blue = color_of_truth(ImageScore(1, 1, (), (), (), 0.0))
    assert red > blue + 50, "missed"
    red, _, blue = color_of_truth(ImageScore(1, 1, (7,), (), (), 0.9))
    assert blue > red + 50, "found"


def test_comparison_without_points_says_so(tmp_path):
    draw_ap_against_time([], "nothing", "AP", tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000
