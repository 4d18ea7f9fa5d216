"""What ``--format`` asks for, written from the store: COCO, Parquet, counts as CSV, or annotations of other tools."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec

from handler.errors import PredictError
from handler.predict.job import Job
from handler.predict.pictures import as_file, outline_of
from handler.predict.sources import file_name
from handler.predict.store import Store, usable

ANNOTATIONS = ("labelme", "yolo", "via", "label-studio", "cvat")
FILES = {"coco": "coco.json", "parquet": "instances.parquet", "csv": "counts.csv"}


def write(job: Job, store: Store, classes: list[str], rooms: Any) -> str:
    """Write what the job asks for; return its path.

    Raises:
        PredictError, or the error of another room: the disk is full, or a photo is gone.
    """
    if job.format not in FILES:
        write_annotations(job, store, classes, rooms)
        return f"{job.output.rstrip('/')}/{job.format}"
    target = f"{job.output.rstrip('/')}/{FILES[job.format]}"
    {"coco": write_coco, "csv": write_counts, "parquet": write_parquet}[job.format](store, target, classes)
    return target


def write_annotations(job: Job, store: Store, classes: Sequence[str], rooms: Any) -> None:
    """Write the photos and their instances for an annotation tool, in a folder with the name of the format."""
    answers = [(photo, answer) for photo, answer in sorted(store.photos()) if "error" not in answer]
    if not answers:
        raise PredictError(f"no photo could be predicted, so there is nothing for --format {job.format}")
    with tempfile.TemporaryDirectory(prefix="maskrcnn-", ignore_cleanup_errors=True) as scratch:
        photos = []
        for number, (photo, answer) in enumerate(answers):
            path = as_file(photo, Path(scratch) / str(number))
            name = Path(file_name(photo)).with_suffix(path.suffix).name
            if Path(photo).is_relative_to(job.folder / "frames"):
                name = f"{Path(photo).parent.name}_{name}"
            # the box of an instance may be too small for a mask, and an annotation is an outline
            found = [(e["class_id"], outline_of(e["mask"])) for e in answer["instances"] if e["area"]]
            photos.append((name, path, *answer["image"].values(), found))
        rooms.write_annotations(job.format, job.folder / job.format, classes, photos)


def write_coco(store: Store, target: str, classes: Sequence[str]) -> None:
    """Write one COCO file to a path or an fsspec URI: photos by name, ids from 1, annotations with a score.

    Its list ``errors`` holds the photos that have no answer.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    errors = []
    for photo, answer in sorted(store.photos()):
        if error := answer.get("error"):
            errors.append({"file_name": photo, "code": error["code"], "message": error["message"]})
            continue
        images.append({"id": len(images) + 1, "file_name": photo, **answer["image"]})
        for each in answer["instances"]:
            x0, y0, x1, y1 = each["box"]
            annotation: dict[str, Any] = {"id": len(annotations) + 1, "image_id": len(images), "iscrowd": 0}
            annotation |= {"category_id": each["class_id"] + 1, "segmentation": each["mask"]}
            annotation |= {"bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]}
            annotations.append(annotation | {name: each[name] for name in ("area", "score")})
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    document = {"images": images, "categories": categories, "annotations": annotations, "errors": errors}
    _write_whole(target, lambda file: file.write(json.dumps(document, ensure_ascii=False).encode()))


def write_counts(store: Store, target: str, classes: Sequence[str]) -> None:
    """Write one CSV line per photo: instances and area in pixels, of all classes and of each.

    Overlapping masks count once in ``mask_fraction``, the share of the photo under any mask, and twice in areas.
    """
    header = ["photo", "error", "instances", "mask_fraction"]
    header += [f"{name} {what}" for name in classes for what in ("count", "area")]
    lines = []
    for photo, answer in store.photos():
        found = answer.get("instances", ())
        areas = [[each["area"] for each in found if each["class_id"] == i] for i in range(len(classes))]
        code = answer.get("error", {}).get("code", "")
        line = [photo, code, len(found), answer.get("mask_fraction", "")]
        lines.append(line + [number for each in areas for number in (len(each), sum(each))])
    write_csv(target, [header, *sorted(lines)])


def write_csv(target: str, lines: Iterable[Sequence[object]]) -> None:
    """Write a table to a path or an fsspec URI."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    _write_whole(target, lambda file: file.write(text.getvalue().encode()))


def write_parquet(store: Store, target: str, classes: Sequence[str]) -> None:
    """Write one Parquet file: a row per instance, and one for a photo without instances or with an error.

    ``box`` is XYXY in pixels, ``mask`` the counts of a compressed COCO RLE of size (``height``, ``width``).
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
            rows = (row for photo in store.photos() for row in _rows(*photo))
            while batch := list(islice(rows, 10_000)):
                writer.write_table(pa.Table.from_pylist(batch, schema))

    _write_whole(target, write)


def _rows(photo: str, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    if error := answer.get("error"):
        return [{"photo": photo, "error_code": error["code"], "error_message": error["message"]}]
    common = {"photo": photo, **answer["image"], "mask_fraction": answer["mask_fraction"]}
    return [
        {**common, **each, "instance": each["id"], "mask": each["mask"]["counts"]}
        for each in answer["instances"]
    ] or [common]


def _write_whole(target: str, write: Callable[[Any], None]) -> None:
    with usable(target):
        fs, path = fsspec.core.url_to_fs(target)
        with fs.open(f"{path}.tmp", "wb") as file:
            write(file)
        fs.mv(f"{path}.tmp", path)
