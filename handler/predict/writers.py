"""Keep the answers of a job (:class:`Store`), and write them as COCO or Parquet.

What is in the store is done: a job that is run again skips it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import fsspec

from handler.errors import PredictError

FLUSH_SECONDS = 60
_MASK_KEYS = ("counts", "polygons", "png")
Row = dict[str, Any]


def rows_of(photo: str, document: Mapping[str, Any]) -> list[Row]:
    """The rows of one answer: one per instance; a single one without ``instance`` if none was found, or the error."""
    if error := document.get("error"):
        return [{"photo": photo, "error_code": error["code"], "error_message": error["message"]}]
    common = {"photo": photo, **document["image"], "mask_fraction": document["mask_fraction"]}
    rows = []
    for found in document["instances"]:
        row = {name: found[name] for name in ("class_id", "class_name", "score", "box", "area")}
        if (mask := found.get("mask")) is not None:
            value = next(mask[key] for key in _MASK_KEYS if key in mask)
            row["mask"] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        rows.append({**common, "instance": found["id"], **row})
    return rows or [common]


class Store:
    """A folder ``answers/`` of JSON-lines files, each written whole or not at all, and ``answers/job.json``.

    Args:
        output: the job's folder, a path or an fsspec URI; the store is inside it.
        job: describes the answers; a store of another job is refused.
        size: photos per file; a file is also written after a minute.

    Raises:
        PredictError: the folder holds something else, or the answers of another job.
    """

    def __init__(self, output: str, job: Mapping[str, Any], size: int) -> None:
        self.output, self.size = output, size
        self._rows: list[Row] = []
        self._photos = 0
        self._flushed = time.monotonic()
        with usable(output):
            self.fs, root = fsspec.core.url_to_fs(output)
            self.root = f"{root}/answers"
            about = f"{self.root}/job.json"
            if self.fs.exists(about):
                self._check_same(json.loads(self.fs.cat_file(about)), job)
            elif self.fs.exists(root) and self.fs.ls(root, detail=False):
                raise PredictError(
                    f"--output {output} holds something else: choose an empty folder, or a new one"
                )
            else:
                self.fs.makedirs(self.root, exist_ok=True)
                self._write("job.json", json.dumps(job, indent=2))

    def _check_same(self, begun: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        if changed := sorted(key for key in {*job, *begun} if job.get(key) != begun.get(key)):
            raise PredictError(
                f"--output {self.output} holds the answers of another job (other {', '.join(changed)}): choose "
                "another folder, or remove it"
            )

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep a second job out of a local folder: both would predict every photo. Object stores have no locks."""
        if "file" not in self.fs.protocol:
            yield
            return
        import fcntl

        folder = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise PredictError(
                f"another job is writing to {self.output}: wait for it, or choose another folder"
            ) from None
        finally:
            os.close(folder)

    def done(self) -> set[str]:
        """The photos whose answers are written."""
        return {row["photo"] for row in self.rows()}

    def rows(self) -> Iterator[Row]:
        """The rows that are written, as :func:`rows_of` makes them."""
        for name in sorted(name for name in self.fs.ls(self.root, detail=False) if name.endswith(".jsonl")):
            with self.fs.open(name, "r", encoding="utf-8") as file:
                yield from map(json.loads, file)

    def add(self, photo: str, document: Mapping[str, Any]) -> None:
        """Keep one photo's answer; write when there are enough, or when a minute has passed."""
        self._rows += rows_of(photo, document)
        self._photos += 1
        if self._photos >= self.size or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        if self._rows:
            lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in self._rows)
            with usable(self.output):
                self._write(f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl", lines)
        self._rows, self._photos, self._flushed = [], 0, time.monotonic()

    def _write(self, name: str, text: str) -> None:
        temporary = f"{self.root}/.{name}.tmp"
        self.fs.pipe_file(temporary, text.encode())
        self.fs.mv(temporary, f"{self.root}/{name}")


@contextlib.contextmanager
def usable(output: str) -> Iterator[None]:
    """Turn what a file system raises into one sentence."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:  # ImportError: a kind of URI that needs a package
        reason = getattr(error, "strerror", None) or error
        raise PredictError(
            f"--output {output} cannot be used ({reason}): fix that; the same command continues from what is written"
        ) from error


def write_coco(store: Store, target: str, classes: list[str], mask_format: str) -> None:
    """Write one COCO file: ``images``, ``categories``, ``annotations`` with a score, and ``errors``.

    Args:
        store: its rows are read twice, so that memory does not grow with the masks.
        target: a path or an fsspec URI.
        classes: the model's.
        mask_format: of the rows: ``rle``, ``polygon`` or ``none``.

    Ids count from 1; images are in the order of their names. ``errors`` lists the photos that have no answer.
    """
    sizes: dict[str, tuple[int, int]] = {}
    errors: dict[str, dict[str, str]] = {}
    for row in store.rows():
        photo = row["photo"]
        if "error_code" in row:
            errors[photo] = {"file_name": photo, "code": row["error_code"], "message": row["error_message"]}
        else:
            sizes[photo] = (row["width"], row["height"])
    ids = {photo: number for number, photo in enumerate(sorted(sizes), 1)}
    parts: dict[str, Iterable[Any]] = {
        "images": (
            {"id": i, "file_name": p, "width": sizes[p][0], "height": sizes[p][1]} for p, i in ids.items()
        ),
        "categories": ({"id": i, "name": name} for i, name in enumerate(classes, 1)),
        "annotations": _annotations(store.rows(), ids, mask_format),
        "errors": (errors[photo] for photo in sorted(errors)),
    }

    def write(file: Any) -> None:
        opening = "{"
        for key, items in parts.items():
            file.write(f'{opening}"{key}":['.encode())
            for i, item in enumerate(items):
                line = json.dumps(item, separators=(",", ":"), ensure_ascii=False)
                file.write((",\n" if i else "\n").encode() + line.encode())
            file.write(b"]")
            opening = ",\n"
        file.write(b"}\n")

    _write_whole(target, write)


def _annotations(rows: Iterable[Row], ids: Mapping[str, int], mask_format: str) -> Iterator[dict[str, Any]]:
    for number, row in enumerate((row for row in rows if "instance" in row), 1):
        x0, y0, x1, y1 = row["box"]
        annotation = {
            "id": number,
            "image_id": ids[row["photo"]],
            "category_id": row["class_id"] + 1,
            "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
            "area": row["area"],
            "iscrowd": 0,
            "score": row["score"],
        }
        if mask_format == "rle":
            annotation["segmentation"] = {"size": [row["height"], row["width"]], "counts": row["mask"]}
        elif mask_format == "polygon":
            annotation["segmentation"] = json.loads(row["mask"])
        yield annotation


def write_parquet(store: Store, target: str) -> None:
    """Write one Parquet file with the store's rows, one row group per file of the store.

    ``box`` is XYXY in pixels; ``mask`` is COCO's counts (rle, of size (height, width)), JSON (polygon) or base64 (png).
    """
    import pyarrow as pa
    import pyarrow.parquet

    number, text, real = pa.int32(), pa.string(), pa.float64()
    fields = [("photo", text), ("width", number), ("height", number), ("mask_fraction", real)]
    fields += [("instance", number), ("class_id", number), ("class_name", text), ("score", real)]
    fields += [("box", pa.list_(real, 4)), ("area", pa.int64()), ("mask", text)]
    schema = pa.schema([*fields, ("error_code", text), ("error_message", text)])

    def write(file: Any) -> None:
        with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            rows = store.rows()
            while batch := [row for _, row in zip(range(10_000), rows, strict=False)]:
                writer.write_table(pa.Table.from_pylist(batch, schema))

    _write_whole(target, write)


def _write_whole(target: str, write: Callable[[Any], None]) -> None:
    with usable(target):
        fs, path = fsspec.core.url_to_fs(target)
        with fs.open(f"{path}.tmp", "wb") as file:
            write(file)
        fs.mv(f"{path}.tmp", path)
