"""The GPU's check, tried on a processor with a toy model."""

import json
from pathlib import Path

import numpy as np
import pytest

from handler.model import Detections
from tests.benchmarks import gpu_check, gpu_steps
from tests.benchmarks.comparing import assert_equal, matched_iou
from tests.handler.toys import blob_detections


def test_the_report_says_what_passed_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = {
        "ceilings": {"result": "passed", "seconds": 1.0, "figures": {"torch": "2"}},
        "serving": {"result": "skipped", "seconds": 1.0, "figures": {"skipped": "no Java"}},
        "latency": {"result": "failed", "seconds": 1.0, "figures": {"error": ["boom"]}},
    }
    monkeypatch.setattr(gpu_check, "run_step", lambda name, dry_run: outcomes[name])
    words = ["--dry-run", "--output", str(tmp_path), "--steps"]
    assert gpu_check.main([*words, "ceilings", "serving"]) == 0
    assert gpu_check.main([*words, *outcomes]) == 1
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["steps"] == outcomes
    assert report["dry_run"] is True
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path)
    assert "boom" in printed[-2]


def test_a_step_that_takes_too_long_or_ends_badly_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_check.SECONDS, "ceilings", 0.01)
    outcome = gpu_check.run_step("ceilings", dry_run=False)
    assert (outcome["result"], outcome["figures"]["error"]) == ("failed", ["took longer than 0.01 s"])


def test_carried_packages_are_seen_by_every_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(gpu_check, "run_step", lambda name, dry_run: {"result": "passed", "figures": {}})
    carried = tmp_path / "carried"
    assert gpu_check.main(["--packages", str(carried), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "gpu_check.pth").read_text() == f"{carried}\n"


@pytest.mark.parametrize(
    "spoiled", ["boxes", "scores", "class_ids", "masks"], ids=lambda name: f"other {name}"
)
def test_another_answer_is_not_equal(spoiled: str) -> None:
    expected = blob_detections(3, 100, 100)
    assert_equal(expected, expected)
    parts = {name: getattr(expected, name).copy() for name in ("boxes", "scores", "class_ids", "masks")}
    parts[spoiled][0] += 1
    with pytest.raises(AssertionError):
        assert_equal(Detections(**parts), expected)


def test_masks_elsewhere_do_not_match() -> None:
    expected = blob_detections(4, 200, 200)
    assert matched_iou(expected, expected, (200, 200)) == 1
    moved = Detections(
        expected.boxes[:, [1, 0, 3, 2]] * np.float32(0.3), expected.scores, expected.class_ids, expected.masks
    )
    with pytest.raises(AssertionError, match="overlap"):
        matched_iou(moved, expected, (200, 200))


@pytest.mark.parametrize("step", ["ceilings", "failures"])
def test_dry_run(step: str, tmp_path: Path) -> None:
    assert gpu_steps.STEPS[step](gpu_steps.Setting(tmp_path, dry_run=True))


@pytest.mark.slow
def test_dry_run_of_everything(tmp_path: Path) -> None:
    assert gpu_check.main(["--dry-run", "--output", str(tmp_path)]) == 0
