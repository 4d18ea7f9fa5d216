"""Films: their frames as photos, ids that stay with an object, and the frames painted and joined again.

The ids come from overlaps of boxes. Roboflow's ``trackers`` would bring a second OpenCV that overwrites ours, and
supervision PyAV and SciPy; both solve a harder problem, as they match boxes through long occlusions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import fsspec
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from handler.errors import PredictError
from handler.predict.pictures import paint, picture_paths, read_pixels
from handler.predict.sources import file_name
from handler.predict.store import Store, usable
from handler.predict.writers import write_csv

MAX_FRAMES = 20_000
"""Frames to predict of one film: an hour at five a second."""
JPEG_QUALITY = 95
MIN_IOU = 0.3
"""Of the boxes of one object in two frames; less than half, because an object may move between sampled frames."""
REMEMBERED = 1.0
"""Seconds for which an object that is not found keeps its id."""


def extract(films: Sequence[str], folder: Path, fps: float | None) -> dict[str, list[str]]:
    """Write the frames of each film as JPEGs, named by their time in milliseconds.

    Args:
        films: paths or fsspec URIs.
        folder: gets a folder per film; one that is there already is complete, and stays.
        fps: frames a second to keep; None keeps all.

    Returns:
        The paths of the frames, in order, by film.

    Raises:
        PredictError: a film is damaged, or too long, or the disk is full.
    """
    frames = {}
    for film, path in picture_paths(folder.resolve(), films).items():
        place = path.with_suffix("")
        if not place.exists():
            with usable(str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(prefix=".frames-", dir=folder) as temporary:
                    (made := Path(temporary, "frames")).mkdir()
                    _extract_one(film, _as_file(film, Path(temporary)), made, fps)
                    made.rename(place)
        frames[film] = [str(frame) for frame in sorted(place.glob("*.jpg"))]
    return frames


def _as_file(film: str, folder: Path) -> str:
    """The path of a film; what lies in a zip or an object store is copied, as OpenCV reads files only."""
    if "://" not in film:
        return film
    try:
        cache = {"cache_storage": str(folder / "copy")}
        return str(fsspec.open_local(f"simplecache::{film}", mode="rb", simplecache=cache))
    except Exception as error:  # of a file system
        raise PredictError(f"{film} cannot be copied to {folder.parent} ({error}): check both") from error


def _extract_one(film: str, path: str, folder: Path, fps: float | None) -> None:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= 1000 else 25.0
    share = min((fps or rate) / rate, 1)
    kept = 0
    total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) or None
    grabbed = tqdm(iter(capture.grab, False), file_name(film), total, unit="frame", disable=None)
    for index, _ in enumerate(grabbed):
        if kept > int(index * share):  # enough of this second
            continue
        if kept == MAX_FRAMES:
            raise PredictError(
                f"{film} has over {MAX_FRAMES} frames to predict: choose a lower --fps, or cut it"
            )
        jpeg = cv2.imencode(".jpg", capture.retrieve()[1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1]
        (folder / f"{round(index / rate * 1000):09}.jpg").write_bytes(jpeg.tobytes())
        kept += 1
    if not kept:
        raise PredictError(
            f"{film} is no film that OpenCV can read, or has no frames: convert it, or leave it out"
        )


class Tracker:
    """Gives the same id to an object in consecutive frames: that of the box of its class that it overlaps most.

    Args:
        patience: frames for which an object that is not found keeps its id.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._seen: dict[int, tuple[int, list[float], int]] = {}  # id → class, last box, its frame's number
        self._frame = self._count = 0

    def update(self, instances: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids, counted from 1, of the instances of the next frame."""
        self._frame += 1
        self._seen = {i: s for i, s in self._seen.items() if self._frame - s[2] <= self.patience + 1}
        known, boxes = list(self._seen), [_xywh(each["box"]) for each in instances]
        overlaps = np.zeros((len(boxes), len(known)))
        if overlaps.size:
            last = np.array([box for _, box, _ in self._seen.values()])
            overlaps = coco_mask.iou(np.array(boxes), last, [0] * len(known))
            classes = np.array([each["class_id"] for each in instances])
            overlaps[classes[:, None] != np.array([class_id for class_id, _, _ in self._seen.values()])] = 0
        ids = [0] * len(boxes)
        while overlaps.size and overlaps.max() >= MIN_IOU:  # the best pair first
            i, j = (int(n) for n in np.unravel_index(overlaps.argmax(), overlaps.shape))
            ids[i] = known[j]
            overlaps[i], overlaps[:, j] = 0, 0
        for k, each in enumerate(instances):
            if not ids[k]:
                ids[k] = self._count = self._count + 1
            self._seen[ids[k]] = each["class_id"], boxes[k], self._frame
        return ids


def _xywh(box: Sequence[float]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def write(frames: Mapping[str, Sequence[str]], store: Store, folder: Path, *, overlay: bool) -> None:
    """Write ``folder/tracks.csv``, a line per object and frame; with ``overlay``, ``folder/overlays/NAME.mp4``.

    Raises:
        PredictError: the disk is full, or a frame is gone.
    """
    found = {photo: answer.get("instances", []) for photo, answer in store.photos()}
    table: list[Sequence[object]] = ["film seconds track class_name score x0 y0 x1 y1 area".split()]
    paths = picture_paths(folder / "overlays", list(frames))
    for film, listed in frames.items():
        times = [int(Path(frame).stem) / 1000 for frame in listed]
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 25.0
        tracker = Tracker(round(REMEMBERED * rate))
        tracks = [tracker.update(found[frame]) for frame in listed]
        for frame, seconds, ids in zip(listed, times, tracks, strict=True):
            for track, each in zip(ids, found[frame], strict=True):
                table.append(
                    [film, seconds, track, each["class_name"], each["score"], *each["box"], each["area"]]
                )
        target = paths[film].with_suffix(".mp4")
        if overlay and not target.exists():
            painted = (
                paint(read_pixels(frame), found[frame], ids)
                for frame, ids in zip(listed, tracks, strict=True)
            )
            _write_film(target, rate, tqdm(painted, "painting", len(listed), unit="frame", disable=None))
    write_csv(str(folder / "tracks.csv"), table)


def _write_film(target: Path, rate: float, pictures: Iterable[np.ndarray]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}")
    writer, count = cv2.VideoWriter(), 0
    for count, picture in enumerate(pictures, 1):
        if count == 1:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer.open(str(temporary), codec, rate, (picture.shape[1], picture.shape[0]))
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    if cv2.VideoCapture(str(temporary)).get(cv2.CAP_PROP_FRAME_COUNT) != count:  # OpenCV reports no errors
        raise PredictError(
            f"{target} cannot be written: free some space; the same command continues from there"
        )
    temporary.replace(target)
