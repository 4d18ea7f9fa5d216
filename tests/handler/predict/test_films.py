"""Films: frames, ids that stay with an object, and the painted film."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from handler.predict import films
from handler.predict.films import Tracker
from tests.handler.predict.archives import answered, invoke, stub_archive
from tests.toy_models import photo


def write_film(path: Path, *, frames: int = 20, rate: float = 10) -> Path:
    """A film of one still photo, in a codec without loss."""
    still = cv2.resize(photo(72, 96, seed=2), (192, 144))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), rate, (192, 144))
    for _ in range(frames):
        writer.write(still)
    writer.release()
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_film_of_one_still_photo_keeps_every_id(tmp_path: Path, real_archive: Path) -> None:
    film, out = write_film(tmp_path / "still.avi"), tmp_path / "out"
    arguments = (real_archive, film, "--output", out, "--overlay", "--format", "csv")
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    rows = table(out / "tracks.csv")
    by_time: dict[str, set[str]] = {}
    for row in rows:
        by_time.setdefault(row["seconds"], set()).add(row["track"])
    assert list(by_time) == [str(i / 10) for i in range(20)]
    ids = by_time["0.0"]
    assert len(ids) > 3
    assert all(each == ids for each in by_time.values())
    painted = cv2.VideoCapture(str(out / "overlays/still.mp4"))
    assert (painted.get(cv2.CAP_PROP_FRAME_COUNT), painted.get(cv2.CAP_PROP_FPS)) == (20, 10)
    assert (painted.get(cv2.CAP_PROP_FRAME_WIDTH), painted.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (192, 144)
    assert len(table(out / "counts.csv")) == 20
    assert "20 of 20 photos are done already" in invoke(*arguments).stderr


def test_frames_are_sampled_and_a_film_may_lie_in_a_zip(tmp_path: Path) -> None:
    film = write_film(tmp_path / "still.avi")
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as file:
        file.write(film, "inner/other.avi")
    out = tmp_path / "out"
    result = invoke(stub_archive(tmp_path), film, tmp_path / "films.zip", "--output", out, "--fps", 4)
    assert result.exit_code == 0, result.stderr
    times = [0, 300, 500, 800, 1000, 1300, 1500, 1800]  # eight of two seconds
    names = [f"{out}/frames/{name}/{time:09}.jpg" for name in ("still", "other") for time in times]
    assert answered(out) == names


@pytest.mark.parametrize(
    ("content", "limit", "message"),
    [
        (slice(0), 20_000, "has no frames"),
        (slice(2000), 20_000, "has no frames"),
        (slice(None), 5, "has over 5 frames to predict: choose a lower --fps"),
    ],
    ids=["empty", "corrupt", "endless"],
)
def test_a_film_that_cannot_be_predicted(
    tmp_path: Path, content: slice, limit: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, out = write_film(tmp_path / "film.avi"), tmp_path / "out"
    film.write_bytes(film.read_bytes()[content])
    monkeypatch.setattr(films, "MAX_FRAMES", limit)
    result = invoke(stub_archive(tmp_path), film, "--output", out)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not list((out / "frames").iterdir()), "no part of a film passes for the whole"


def instance(x: float, class_id: int = 0) -> dict:
    return {"box": [x, 0.0, x + 10, 10.0], "class_id": class_id}


def test_ids_stay_with_objects() -> None:
    tracker = Tracker(patience=2)
    assert tracker.update([instance(0), instance(50)]) == [1, 2]
    assert tracker.update([instance(53), instance(3)]) == [2, 1], "whatever their order"
    assert tracker.update([instance(56)]) == [2]
    assert tracker.update([]) == []
    assert tracker.update([instance(5), instance(58)]) == [1, 2], "missed for two frames"
    assert tracker.update([instance(5, class_id=1), instance(90)]) == [3, 4], "another class, another place"
    for _ in range(3):
        tracker.update([])
    assert tracker.update([instance(5)]) == [5], "forgotten"
    assert np.unique(tracker.update([instance(5), instance(6), instance(7)])).size == 3
