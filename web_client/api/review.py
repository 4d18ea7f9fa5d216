"""The review store: pictures that a person should look at, with the model's answer. Off by default.

::

    DIR/.review.lock
    DIR/0123456789abcdef-wrong/photo.jpg      the picture as it was sent; the name has its SHA-256
                               answer.json    {"time", "reason", "score_threshold", "classes", "answer"}

``reason`` is ``wrong`` (a visitor flagged the picture), ``uncertain`` (a score lies near the threshold) or
``disagreement`` (another version, asked with the same options, shows other objects); ``answer`` is Contract 2's JSON,
with the model's version and the SHA-256 of its weights. `maskrcnn data from-review` reads the store. An entry appears
whole, and several processes may write to one store.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask

from web_client.api.uploads import Picture
from web_client.errors import WebClientError

log = logging.getLogger("web_client")

MARGIN = 0.1
"""A score this close to the threshold makes an answer uncertain."""
SAME_OBJECT = 0.5
"""IoU from which boxes of two versions show the same object."""
REMEMBERED = 256
"""Pictures whose answers stay in memory, as classes and boxes, to be compared with another version's."""
WRONG, UNCERTAIN, DISAGREEMENT = "wrong", "uncertain", "disagreement"
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/bmp": ".bmp"}
"""What `maskrcnn data import` reads; GIF and TIFF are not kept."""
HOUR = 3600
LOCK = ".review.lock"
"""Marks a folder as a store, too: nothing is ever deleted in another one."""


def register(app: Flask) -> None:
    """Open the store where ``REVIEW`` names a folder, and check at each request for expired pictures.

    Raises:
        WebClientError: the store cannot be used.
    """
    if not app.config["REVIEW"]:
        return
    store = ReviewStore(Path(app.config["REVIEW"]), app.config["REVIEW_LIMIT"], app.config["REVIEW_DAYS"])
    app.extensions["review"] = store

    @app.before_request
    def delete_expired() -> None:
        try:
            store.delete_expired()
        except OSError as error:
            log.error("the review store cannot be cleaned: %s", error)


Objects = list[tuple[str, Sequence[float]]]
"""The class and the box of each object."""


def is_uncertain(answer: Mapping[str, Any], score_threshold: float) -> bool:
    """Whether a small change of the threshold would change the answer."""
    return any(abs(each["score"] - score_threshold) <= MARGIN for each in answer["instances"])


def same_objects(one: Objects, other: Objects) -> bool:
    """Whether each object has its counterpart of the same class, whose box overlaps it by ``SAME_OBJECT``."""
    left = list(other)
    for name, box in one:
        overlaps = [_iou(box, each[1]) if each[0] == name else 0.0 for each in left]
        if max(overlaps, default=0.0) < SAME_OBJECT:
            return False
        del left[overlaps.index(max(overlaps))]
    return not left


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


class ReviewStore:
    """Several threads may use one object.

    Args:
        folder: made with mode 0700 if it is missing.
        max_bytes: of all pictures and answers; the oldest make room for new ones, those that nobody flagged first.
        days: after which a picture is deleted.

    Raises:
        WebClientError: the folder cannot be made, holds something else, or other users can read it.
    """

    def __init__(self, folder: Path, max_bytes: int, days: float) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.days = days
        self._next_deletion = 0.0
        self._shown: dict[Any, dict[str, Objects]] = {}  # picture and options → version → what it shows
        self._mutex = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                raise WebClientError(f"{folder} can be read by other users: run `chmod 700 {folder}`")
            if not (folder / LOCK).exists() and any(folder.iterdir()):
                raise WebClientError(f"{folder} holds other files: choose a new folder for the review store")
            self.delete_expired()
        except OSError as error:
            raise WebClientError(
                f"the review store {folder} cannot be used ({error.strerror}): choose another folder"
            ) from None

    def disagrees(
        self, picture: Picture, options: Mapping[str, str], answer: Mapping[str, Any], score_threshold: float
    ) -> bool:
        """Whether another version has shown other objects on this picture, by the answers that are still in memory."""
        found = [each for each in answer["instances"] if each["score"] >= score_threshold]
        shown = [(each["class_name"], each["box"]) for each in found]
        key, version = (_digest(picture), *sorted(options.items())), answer["model"]["version"]
        with self._mutex:
            others = self._shown.pop(key, {})
            self._shown[key] = others | {version: shown}
            while len(self._shown) > REMEMBERED:
                del self._shown[next(iter(self._shown))]
        return not all(same_objects(shown, each) for other, each in others.items() if other != version)

    def keep(self, picture: Picture, answer: Mapping[str, Any], reason: str, **more: Any) -> None:
        """Keep a picture; an older answer to it is replaced, but for one that a visitor flagged.

        Args:
            more: what else belongs into ``answer.json``.

        Raises:
            ValueError: the store does not take such a picture.
            OSError: the disk is full, or the folder is gone.
        """
        if picture.media_type not in SUFFIXES:
            raise ValueError(f"the store does not take {picture.media_type}")
        digest = _digest(picture)
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason, **more}
        files = {
            f"photo{SUFFIXES[picture.media_type]}": picture.data,
            "answer.json": json.dumps(entry | {"answer": answer}).encode(),
        }
        size = sum(map(len, files.values()))
        if size > self.max_bytes:
            raise ValueError("the picture is larger than the store may be")
        with self._locked():
            if reason != WRONG and (self.folder / f"{digest}-{WRONG}").exists():
                return
            self._make_room(size)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
            try:
                for name, data in files.items():
                    _write(new / name, data)
                for former in self.folder.glob(f"{digest}-*"):
                    shutil.rmtree(former)
                new.rename(self.folder / f"{digest}-{reason}")
            finally:
                shutil.rmtree(new, ignore_errors=True)

    def delete_expired(self) -> None:
        """Delete what is too old; looks once an hour, however often it is called."""
        if time.monotonic() >= self._next_deletion:
            self._next_deletion = time.monotonic() + HOUR
            with self._locked():
                self._make_room(0)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(os.open(self.folder / LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> None:
        """Delete old pictures, and others until ``size`` bytes fit; also what a killed process left half written."""
        for half in self.folder.glob(".new-*"):
            shutil.rmtree(half)
        kept = []
        for entry in self.folder.glob("[!.]*-*"):
            if time.time() - entry.stat().st_mtime > self.days * 24 * HOUR:
                shutil.rmtree(entry)
            else:
                kept.append(entry)
        # the last ones go first: the oldest of those that nobody flagged
        kept.sort(key=lambda entry: (entry.name.endswith(WRONG), entry.stat().st_mtime), reverse=True)
        sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in kept}
        excess = sum(sizes.values()) + size - self.max_bytes
        while excess > 0:
            excess -= sizes[kept[-1]]
            shutil.rmtree(kept.pop())


def _digest(picture: Picture) -> str:
    return hashlib.sha256(picture.data).hexdigest()[:16]


def _write(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
