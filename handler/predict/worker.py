"""What runs in each Ray actor: one predictor, out of the archive's own code.

The class travels to the nodes by value, and imports ``handler`` only after the unpacked archive stands first on
``sys.path``: as under TorchServe, an archive brings its code along, and a node needs the pip packages alone.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

READ_ATTEMPTS = 3


class PhotoWorker:
    """Answers photos as TorchServe would: the same service, asked without HTTP.

    Args:
        archive: a one-element list with the Ray reference of the archive's bytes.
        sha256: of the archive; names the folder that all actors of a node share.
        options: Contract 2's options as a form would send them.
        threads: cores to use. ``batch_size``: photos to run at once. ``device``: ``cpu`` or ``cuda``.
        patience: seconds without an answer after which the process ends itself. Ray would wait for it for ever, and
            leave it its core.
        cache: where to unpack; by default the temporary folder, where it stays for the next job.
    """

    def __init__(
        self,
        archive: list[Any],
        sha256: str,
        options: Mapping[str, str],
        threads: int,
        batch_size: int,
        device: str,
        patience: float,
        cache: str | None = None,
    ) -> None:
        import json
        import sys

        import ray
        import yaml

        folder = _unpack_once(ray.get(archive[0]), sha256, cache)
        sys.path.insert(0, str(folder))
        from handler.api.options import FormText, parse_options
        from handler.api.settings import parse_settings
        from handler.model.predictor import Predictor
        from handler.service import Request, Service

        config = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8")) or {}
        classes = json.loads((folder / "archive.json").read_text(encoding="utf-8"))["classes"]
        settings = parse_settings(config.get("handler"), classes)
        predictor = Predictor.load(
            folder, device=device, precision=settings.precision, engine=settings.engine, threads=threads
        )
        self.service = Service(predictor, settings)
        given = {name: FormText(value) for name, value in {**options, "output": "json"}.items()}
        parse_options(given, classes, settings.options)
        self.request = lambda photo, data: Request({"image": data, **given}, id=photo)
        self.limit = settings.max_image_bytes
        self.batch_size = batch_size
        self.patience = patience

    def __call__(self, table: Any) -> Any:
        """One table of photos → their answers: ``photo``, ``body`` (Contract 2's JSON), ``answered`` (Unix seconds)."""
        import pyarrow

        photos = table.column("photo").to_pylist()
        groups = [photos[i : i + self.batch_size] for i in range(0, len(photos), self.batch_size)]
        answers = []
        # two at a time: one is read and decoded while the other is in the network
        with ThreadPoolExecutor(2) as pool:
            try:
                self._watch()
                for group in pool.map(self._answer, groups):
                    answers += group
                    self._watch()
            finally:  # an idle actor has nothing to hurry for
                faulthandler.cancel_dump_traceback_later()
        columns = {
            "photo": photos,
            "body": [body for body, _ in answers],
            "answered": [moment for _, moment in answers],
        }
        return pyarrow.table(columns)

    def _watch(self) -> None:
        """Begin to wait anew. faulthandler's watchdog is C: it also ends what never gives the interpreter back."""
        standard_error = 2  # whatever Ray has made of sys.stderr
        faulthandler.dump_traceback_later(self.patience, exit=True, file=standard_error)

    def _answer(self, photos: list[str]) -> list[tuple[bytes, float]]:
        answers: dict[str, bytes] = {}
        requests = []
        for photo in photos:
            try:
                requests.append(self.request(photo, self._read(photo)))
            # whatever a file system raises: it is this photo's error, not the job's
            except Exception as error:
                answers[photo] = _unreadable(error)
        for request, answer in zip(requests, self.service.answer(requests), strict=True):
            answers[request.id] = answer.body
        return [(answers[photo], time.time()) for photo in photos]

    def _read(self, photo: str) -> bytes:
        """The file's bytes, one more than are taken at most; a store that hiccups is asked again."""
        import fsspec

        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                with fsspec.open(photo, "rb") as file:
                    return bytes(file.read(self.limit + 1))
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                raise
            except OSError:
                if attempt == READ_ATTEMPTS:
                    raise
                time.sleep(2**attempt)
        raise AssertionError


def _unreadable(error: Exception) -> bytes:
    import json

    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    message = f"The file could not be read: {reason}."
    return json.dumps({"error": {"code": "unreadable_file", "message": message, "field": "image"}}).encode()


def _unpack_once(data: Any, sha256: str, cache: str | None) -> Any:
    """The folder of the unpacked archive, private to this user; the first actor of a node makes it."""
    import fcntl
    import io
    import os
    import tempfile
    import zipfile
    from pathlib import Path

    base = Path(cache or tempfile.gettempdir()) / f"maskrcnn-batch-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{base} belongs to somebody else or is open to others: remove it")
    folder = base / sha256
    with open(base / f"{sha256}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            temporary = tempfile.mkdtemp(dir=base)
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                file.extractall(temporary)
            os.rename(temporary, folder)
    return folder
