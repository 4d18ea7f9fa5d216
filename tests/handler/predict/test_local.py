"""``maskrcnn predict`` on this machine: every photo once, with its instances or its error, whatever happens."""

from __future__ import annotations

import errno
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from handler.predict.store import KEPT, Store
from handler.service import Request, Service
from maskrcnn import maskrcnn, run
from tests.handler.predict.archives import (
    answered,
    answers,
    errors,
    invoke,
    run_predict,
    start_predict,
    stub_archive,
    wait_for,
    write_bad_photos,
    write_photos,
)
from tests.toy_models import write_run


def test_good_and_bad_photos(tmp_path: Path) -> None:
    """A row for each: good ones, bad ones of every kind, a missing file, one that kills the predictor."""
    archive, out = stub_archive(tmp_path), tmp_path / "out"
    good = write_photos(tmp_path / "photos", 6)
    bad = write_bad_photos(tmp_path / "photos") | {"unreadable_file": tmp_path / "photos/gone.jpg"}
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(str(path) for path in [*bad.values(), *good]))
    done = run_predict(archive, listing, "--output", out, "--overlay", "--batch-size", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}/coco.json\n"
    assert "Traceback" not in done.stderr
    assert f"{len(good) + len(bad)} photos in " in done.stderr
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
        (["--overlay", "--output", "memory://out"], "--overlay needs a folder of this machine as --output"),
        (["--format", "yolo", "--output", "memory://out"], "--format yolo needs a folder of this machine"),
        (["--output", "nostore://bucket/results"], "--output nostore://bucket/results cannot be used"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, more: list[str], message: str) -> None:
    write_photos(tmp_path / "photos", 1)
    result = invoke(stub_archive(tmp_path), tmp_path / "photos", "--output", tmp_path / "out", *more)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("color", ["black", "green"])
def test_a_photo_that_takes_forever_or_breaks_the_gpu(tmp_path: Path, color: str) -> None:
    write_photos(tmp_path / "photos", 2)
    Image.new("RGB", (60, 40), color).save(tmp_path / "photos/bad.png")
    out = tmp_path / "out"
    arguments = [stub_archive(tmp_path), tmp_path / "photos", "--output", out, "--stall-timeout", 2]
    result = invoke(*arguments, *("--batch-size", 3))
    assert result.exit_code == 0, result.stderr
    assert errors(out) == {str(tmp_path / "photos/bad.png"): "worker_died"}
    assert len(answered(out)) == 3


def test_an_archive_that_is_none_or_does_not_load(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 1)
    (tmp_path / "text.mar").write_text("text")
    for archive, reason in (
        (tmp_path / "text.mar", "is not an archive of `maskrcnn export`"),
        (stub_archive(tmp_path, weights=b""), "could not be started: no weights at all"),
    ):
        result = invoke(archive, tmp_path / "photos", "--output", tmp_path / archive.stem)
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
    before = answered(out)
    assert 6 <= len(before) < 40
    done = run_predict(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 40 photos are done already" in done.stderr
    assert sorted(answered(out)) == photos


def test_answers_equal_those_of_the_service(tmp_path: Path, real_archive: Path) -> None:
    """A real network: equal to the digit with the service in this process, which TorchServe's worker runs."""
    photos = write_photos(tmp_path / "photos", 4)
    out = tmp_path / "out"
    result = invoke(real_archive, *photos, "--output", out, "--max-detections", 20, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    service = Service.load(real_archive.parent / "parts", device="cpu", threads=1)
    for path, answer in zip(photos, answers(out), strict=True):
        (expected,) = service.answer([Request({"image": path.read_bytes(), "max_detections": 20})])
        document = json.loads(expected.body)
        assert answer == {"photo": str(path), **{key: document[key] for key in KEPT if key in document}}
    assert sum(len(answer["instances"]) for answer in answers(out)) > 15


def test_a_run_answers_as_its_archive_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    write_run(tmp_path / "run", classes=("balloon",))
    photos = write_photos(tmp_path / "photos", 2)
    assert run(maskrcnn, "maskrcnn", ["export", f"{tmp_path}/run", "--output", str(tmp_path)]) == 0
    for model, out in (("run", "a"), ("maskrcnn_mobilenetv2_fpn.mar", "b")):
        result = invoke(tmp_path / model, *photos, "--output", tmp_path / out, "--score-threshold", 0.05)
        assert result.exit_code == 0, result.stderr
    assert answers(tmp_path / "a") == answers(tmp_path / "b")
    jobs = [json.loads((tmp_path / out / "answers/job.json").read_text()) for out in "ab"]
    assert jobs[0] == jobs[1], "another export of the run is the same model: its job can be continued"


def test_a_job_that_writes_into_the_folder_that_it_reads(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 3)
    arguments = (
        stub_archive(tmp_path),
        tmp_path / "photos",
        "--output",
        tmp_path / "photos/found",
        "--overlay",
    )
    assert invoke(*arguments).exit_code == 0
    assert "3 of 3 photos are done already" in invoke(*arguments).stderr


def test_a_full_disk_leaves_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ends with a sentence, and goes on when there is room."""
    archive, out = stub_archive(tmp_path), tmp_path / "out"
    photos = [str(path) for path in write_photos(tmp_path / "photos", 6)]
    arguments = (archive, tmp_path / "photos", "--output", out, "--shard-size", 2)

    def write(store: Store, name: str, text: str) -> None:
        if len(list(out.glob("answers/*.jsonl"))) == 2:
            (out / "answers/.torn.jsonl.tmp").write_text(text[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(store, name, text)

    whole = Store._write
    with monkeypatch.context() as full:
        full.setattr(Store, "_write", write)
        stopped = invoke(*arguments)
    assert stopped.exit_code == 1
    assert "cannot be used (No space left on device)" in stopped.stderr
    assert answered(out) == photos[:4]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    assert answered(out) == photos
