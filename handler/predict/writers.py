"""Answers → Parquet shards, and shards → one COCO file.

The job alone writes, and a shard is whole or not there: so what stands in shards is what is done.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from handler.predict import BatchError

SCHEMA = pyarrow.schema(
    [
        ("photo", pyarrow.string()),
        ("width", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("mask_fraction", pyarrow.float64()),
        ("instance", pyarrow.int32()),
        ("class_id", pyarrow.int32()),
        ("class_name", pyarrow.string()),
        ("score", pyarrow.float64()),
        ("box", pyarrow.list_(pyarrow.float64(), 4)),  # XYXY, pixels
        ("area", pyarrow.int64()),
        # rle: COCO's counts, the size is (height, width); polygon: JSON; png: base64
        ("mask", pyarrow.string()),
        ("error_code", pyarrow.string()),
        ("error_message", pyarrow.string()),
    ]
)
JOB = "_job.json"  # readers of Parquet folders skip names that begin with "_"
FLUSH_SECONDS = 60
_MASK_KEYS = ("counts", "polygons", "png")


def rows_of(photo: str, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one photo from its answer: one an instance, or one that says that there is none, or why."""
    if error := document.get("error"):
        return [{"photo": photo, "error_code": error["code"], "error_message": error["message"]}]
    common = {"photo": photo, **document["image"], "mask_fraction": document["mask_fraction"]}
    rows = []
    for found in document["instances"]:
        row = {name: found[name] for name in ("class_id", "class_name", "score", "box", "area")}
        mask = found.get("mask")
        if mask is not None:
            value = next(mask[key] for key in _MASK_KEYS if key in mask)
            row["mask"] = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        rows.append({**common, "instance": found["id"], **row})
    return rows or [common]


class Shards:
    """A folder of shards that grows; ``job`` says what its rows are of, and another job is refused.

    Raises:
        BatchError: the folder holds something else, or the results of another archive or other options.
    """

    def __init__(self, folder: str, job: Mapping[str, Any], size: int) -> None:
        self.size = size
        self._rows: list[dict[str, Any]] = []
        self._photos = 0
        self._flushed = time.monotonic()
        try:
            self.fs, self.root = fsspec.core.url_to_fs(folder)
            self.fs.makedirs(self.root, exist_ok=True)
            names = self.fs.ls(self.root, detail=False)
            if self.fs.exists(f"{self.root}/{JOB}"):
                begun = json.loads(self.fs.cat_file(f"{self.root}/{JOB}"))
            elif names:
                raise BatchError(
                    f"OUTPUT {folder} holds something else: choose an empty folder, or a new one"
                )
            else:
                begun = dict(job)
                self._write(JOB, json.dumps(job, indent=2).encode())
        except (OSError, ValueError, ImportError) as error:  # ImportError: a kind of URI that wants a package
            raise BatchError(f"OUTPUT {folder} cannot be used: {error}") from error
        if changed := sorted(key for key in {*job, *begun} if job.get(key) != begun.get(key)):
            raise BatchError(
                f"OUTPUT {folder} holds results of another job (other {', '.join(changed)}): choose another OUTPUT, "
                "or remove it"
            )

    def names(self) -> list[str]:
        return sorted(name for name in self.fs.ls(self.root, detail=False) if name.endswith(".parquet"))

    def tables(self, columns: list[str] | None = None) -> Iterator[pyarrow.Table]:
        """The shards, one after the other."""
        for name in self.names():
            with self.fs.open(name, "rb") as file:
                yield pyarrow.parquet.read_table(file, columns=columns)

    def done(self) -> set[str]:
        """The photos whose answers are written."""
        return {
            photo for table in self.tables(["photo"]) for photo in table.column("photo").unique().to_pylist()
        }

    def add(self, photo: str, document: Mapping[str, Any]) -> None:
        """Take one photo's answer; a full shard, or one that waited for a minute, is written."""
        self._rows += rows_of(photo, document)
        self._photos += 1
        if self._photos >= self.size or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was taken."""
        if self._rows:
            buffer = io.BytesIO()
            table = pyarrow.Table.from_pylist(self._rows, SCHEMA)
            pyarrow.parquet.write_table(table, buffer, compression="zstd")
            self._write(f"part-{time.time_ns()}-{uuid.uuid4().hex[:8]}.parquet", buffer.getvalue())
        self._rows, self._photos, self._flushed = [], 0, time.monotonic()

    def remove(self) -> None:
        self.fs.rm(self.root, recursive=True)

    def _write(self, name: str, data: bytes) -> None:
        temporary = f"{self.root}/.{name}.tmp"
        with _writing(self.root):
            self.fs.pipe_file(temporary, data)
            self.fs.mv(temporary, f"{self.root}/{name}")


@contextlib.contextmanager
def _writing(target: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BatchError(
            f"OUTPUT {target} cannot be written ({error.strerror or error}): make room there; the same command goes on "
            "from what is written"
        ) from error


def write_coco(shards: Shards, target: str, classes: list[str], mask_format: str) -> None:
    """One COCO file of all shards: ``images``, ``annotations`` with a score, ``categories``, and ``errors`` with
    the photos that could not be answered. Ids count from 1, images in the order of their names.
    """
    sizes: dict[str, tuple[int, int]] = {}
    errors: list[dict[str, str]] = []
    for table in shards.tables(["photo", "width", "height", "error_code", "error_message"]):
        for row in table.to_pylist():
            if row["error_code"]:
                errors.append(
                    {"file_name": row["photo"], "code": row["error_code"], "message": row["error_message"]}
                )
            else:
                sizes[row["photo"]] = (row["width"], row["height"])
    ids = {photo: number for number, photo in enumerate(sorted(sizes), 1)}
    images = ({"id": i, "file_name": p, "width": sizes[p][0], "height": sizes[p][1]} for p, i in ids.items())
    categories = ({"id": i, "name": name} for i, name in enumerate(classes, 1))
    fs, path = fsspec.core.url_to_fs(target)
    temporary = f"{path}.tmp"
    with _writing(target), fs.open(temporary, "w", encoding="utf-8") as file:
        parts: dict[str, Iterable[Any]] = {
            "images": images,
            "categories": categories,
            "annotations": _annotations(shards, ids, mask_format),
            "errors": sorted(errors, key=lambda error: error["file_name"]),
        }
        for number, (key, items) in enumerate(parts.items()):
            file.write(("{" if number == 0 else ",\n") + f'"{key}":[')
            for i, item in enumerate(items):
                file.write(
                    (",\n" if i else "\n") + json.dumps(item, separators=(",", ":"), ensure_ascii=False)
                )
            file.write("]")
        file.write("}\n")
    fs.mv(temporary, path)


def _annotations(shards: Shards, ids: Mapping[str, int], mask_format: str) -> Iterator[dict[str, Any]]:
    number = 0
    for table in shards.tables():
        for row in table.to_pylist():
            if row["instance"] is None:
                continue
            number += 1
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
