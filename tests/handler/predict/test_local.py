"""``maskrcnn predict`` on this machine: every photo once, with its instances or its error, whatever happens."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO

from handler.predict.cli import predict
from handler.predict.writers import rows_of
from handler.service import Request, Service
from tests.handler.predict.archives import (
    run_predict,
    start_predict,
    stub_archive,
    wait_for,
    write_bad_photos,
    write_photos,
)


def rows(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "answers").glob("*.jsonl"))
    return [json.loads(line) for name in files for line in name.read_text().splitlines()]


def answered(output: Path) -> list[str]:
    """Each photo as often as its answer was written."""
    return [row["photo"] for row in rows(output) if not row.get("instance")]


def test_good_and_bad_photos(tmp_path: Path) -> None:
    """A row for each: good ones, bad ones of every kind, a missing file, one that kills the predictor."""
    archive, out = stub_archive(tmp_path), tmp_path / "out"
    good = write_photos(tmp_path / "photos", 6)
    bad = write_bad_photos(tmp_path / "photos") | {"unreadable_file": tmp_path / "photos/gone.jpg"}
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(path) for path in [*bad.values(), *good]))
    run = run_predict(archive, listing, "--output", out, "--overlay", "--batch-size", 3)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{out}/coco.json\n"
    assert "Traceback" not in run.stderr
    assert f"{len(good) + len(bad)} photos in " in run.stderr
    assert sorted(answered(out)) == sorted(str(path) for path in [*good, *bad.values()])
    coco = COCO(str(out / "coco.json"))
    assert {error["file_name"]: error["code"] for error in coco.dataset["errors"]} == {
        str(path): code for code, path in bad.items()
    }
    assert [image["file_name"] for image in coco.dataset["images"]] == [str(path) for path in good]
    assert {len(coco.getAnnIds(image)) for image in coco.imgs} > {0}, "some good photos have no instances"
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == annotation["area"]
    assert sorted(path.name for path in (out / "overlays").iterdir()) == [f"{path.stem}.png" for path in good]
    (painted, *_) = (image["file_name"] for i, image in coco.imgs.items() if coco.getAnnIds(i))
    before, after = Image.open(painted), Image.open(out / f"overlays/{Path(painted).stem}.png")
    assert before.size == after.size
    assert not np.array_equal(np.asarray(before), np.asarray(after))

    again = run_predict(archive, listing, "--output", out, "--overlay")
    assert again.returncode == 0, again.stderr
    assert "11 of 11 photos are done already" in again.stderr
    assert sorted(answered(out)) == sorted(str(path) for path in [*good, *bad.values()])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--score-threshold", "2"], "score_threshold must be a number from 0 to 1"),
        (["--classes", "dragon"], "dragon"),
        (["--mask-format", "png"], "COCO has no --mask-format png"),
        (["--overlay", "--ray", "auto"], "--overlay does not work with --ray"),
        (["--overlay", "--output", "memory://out"], "nor with a URI"),
        (["--output", "nostore://bucket/results"], "--output nostore://bucket/results cannot be used"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, more: list[str], message: str) -> None:
    write_photos(tmp_path / "photos", 1)
    paths = [stub_archive(tmp_path), tmp_path / "photos"]
    result = CliRunner().invoke(predict, [*map(str, paths), "--output", str(tmp_path / "out"), *more])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("color", ["black", "green"])
def test_a_photo_that_takes_forever_or_breaks_the_gpu(tmp_path: Path, color: str) -> None:
    write_photos(tmp_path / "photos", 2)
    Image.new("RGB", (60, 40), color).save(tmp_path / "photos/bad.png")
    arguments = [
        stub_archive(tmp_path),
        tmp_path / "photos",
        "--output",
        tmp_path / "out",
        *("--batch-size", 3),
        *("--stall-timeout", 2),
    ]
    result = CliRunner().invoke(predict, [*map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    errors = {row["photo"]: row["error_code"] for row in rows(tmp_path / "out") if "error_code" in row}
    assert errors == {str(tmp_path / "photos/bad.png"): "worker_died"}
    assert len(answered(tmp_path / "out")) == 3


def test_an_archive_that_is_none_or_does_not_load(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 1)
    for archive, reason in (
        (tmp_path / "photos/000.jpg", "is not an archive of `maskrcnn export`"),
        (stub_archive(tmp_path, weights=b""), "could not be started: no weights at all"),
    ):
        arguments = [archive, tmp_path / "photos", "--output", tmp_path / archive.stem]
        result = CliRunner().invoke(predict, [*map(str, arguments)])
        assert result.exit_code == 1
        assert reason in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_job_keeps_what_is_done_and_continues(tmp_path: Path, number: signal.Signals) -> None:
    archive, out = stub_archive(tmp_path, seconds=0.1), tmp_path / "out"
    photos = [str(path) for path in write_photos(tmp_path / "photos", 40)]
    arguments = (archive, tmp_path / "photos", "--output", out, "--shard-size", 3)
    process = start_predict(*arguments)
    wait_for(lambda: len(list(out.glob("answers/*.jsonl"))) >= 2, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.endswith("stopped; the same command continues from here\n")
    done = answered(out)
    assert 6 <= len(done) < 40
    run = run_predict(*arguments)
    assert run.returncode == 0, run.stderr
    assert f"{len(done)} of 40 photos are done already" in run.stderr
    assert sorted(answered(out)) == photos


def test_answers_equal_those_of_the_service(tmp_path: Path, real_archive: Path) -> None:
    """A real network: equal to the digit with the service in this process, which TorchServe's worker runs."""
    photos = write_photos(tmp_path / "photos", 4)
    out = tmp_path / "out"
    arguments = [real_archive, *photos, "--output", out, "--max-detections", 20, "--threads", 1]
    result = CliRunner().invoke(predict, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    service = Service.load(real_archive.parent / "parts", device="cpu", threads=1)
    for path in photos:
        (answer,) = service.answer([Request({"image": path.read_bytes(), "max_detections": 20})])
        assert [row for row in rows(out) if row["photo"] == str(path)] == rows_of(
            str(path), json.loads(answer.body)
        )
    assert len(rows(out)) > 15
