"""YOLO segmentation labels, as Ultralytics, Roboflow and CVAT lay them out.

``data.yaml`` names the classes; a text file beside each photo, or under ``labels`` where the photo lies under
``images``, has a line ``class x1 y1 x2 y2 …`` per polygon, in shares of the upright photo. An empty file means that
there is nothing to find. The format has no holes and no objects of several parts.
"""

import posixpath
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finetune.data.dataset import Photo
from finetune.data.formats.source import (
    SPLIT_WORDS,
    Annotations,
    Options,
    SourceFolder,
    SourceObject,
    SourcePhoto,
    listing,
    number,
    refuse,
)
from finetune.data.masks import single_polygon
from finetune.errors import UserError

TITLE = "YOLO-seg"
PHOTOS = "images/{split}"
# text files that are no labels, unless they lie in a folder called labels
NOT_LABELS = {"train", "val", "valid", "test", "classes", "obj", "requirements", "license"}


def recognize(folder: SourceFolder) -> str | None:
    """See ``Format``."""
    for path in folder.files(".yaml", ".yml"):
        try:
            names = _load_yaml(path).get("names")
        except UserError:
            continue
        if names:
            return f"{folder.name_of(path)} with class names"
    if labels := _label_files(folder):
        first = labels[0].read_text(encoding="utf-8", errors="replace").split()
        if len(first) >= 5 and first[0].isdecimal():
            return f"{listing(folder.name_of(path) for path in labels)} with numbers a line"
    return None


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path} is not valid YAML: export it again") from None
    return content if isinstance(content, dict) else {}


def _label_files(folder: SourceFolder) -> list[Path]:
    return [
        path
        for path in folder.files(".txt")
        if "labels" in folder.name_of(path).split("/")[:-1] or not _is_list(path.stem.lower())
    ]


def _is_list(stem: str) -> bool:
    return stem in NOT_LABELS or stem.startswith("readme")


def read(folder: SourceFolder, options: Options) -> Annotations:
    """See ``Format``."""
    configs = [(path, _load_yaml(path)) for path in folder.files(".yaml", ".yml")]
    configs = [(path, content) for path, content in configs if content.get("names")]
    if len(configs) > 1:
        raise UserError(
            f"{folder.path} holds several data.yaml ({listing(str(p) for p, _ in configs)}): leave one"
        )
    classes = _class_names(folder, configs)
    splits = _split_folders(folder, configs[0][1]) if configs else {}
    photos_of: dict[str, list[str]] = {}
    for name in folder.photos:
        stem = posixpath.splitext(name)[0]
        photos_of.setdefault(stem, []).append(name)
        parts = stem.split("/")
        if "images" in parts[:-1]:
            last = len(parts) - 2 - parts[-2::-1].index("images")
            labels = "/".join([*parts[:last], "labels", *parts[last + 1 :]])
            photos_of.setdefault(labels, []).append(name)
    photos, files = [], [path for path, _ in configs]
    for path in _label_files(folder):
        stem = posixpath.splitext(folder.name_of(path))[0]
        objects = _objects(path, classes)
        files.append(path)
        names = photos_of.get(stem, [])
        if len(names) != 1:
            which = folder.name_of(path)
            problem = f"{which} has no photo of the same name: put it there or remove the label file"
            if names:
                problem = f"{which} fits several photos ({listing(names)}): give each its own name"
            photos.append(SourcePhoto(path, stem, objects, problem=problem))
            continue
        (name,) = names
        split = next((split for start, split in splits.items() if name.startswith(start)), None)
        photo = folder.photos[name]
        photos.append(SourcePhoto(photo, name, objects, split or folder.split_of(photo)))
    if not photos:
        raise UserError(f"{folder.path} holds no YOLO labels: put the folder labels beside the folder images")
    return Annotations(photos, files, list(classes.values()))


def _class_names(folder: SourceFolder, configs: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[int, str]:
    """Class id → name, from data.yaml or classes.txt."""
    if configs:
        names = configs[0][1]["names"]
        if not isinstance(names, dict | list):
            raise UserError(f"{configs[0][0]}: names is {names!r}, not a list of class names: correct it")
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
    else:
        lists = [path for path in folder.files(".txt") if path.stem.lower() in ("classes", "obj")]
        if not lists:
            raise UserError(f"{folder.path} names no classes: add data.yaml with names, or classes.txt")
        pairs = enumerate(lists[0].read_text(encoding="utf-8").splitlines())
    try:
        classes = {int(key): str(name).strip() for key, name in pairs}
    except (TypeError, ValueError):
        raise UserError(
            f"{folder.path}: the class ids of data.yaml are not whole numbers: correct them"
        ) from None
    if len(set(classes.values())) < len(classes):
        raise UserError(
            f"{folder.path} names a class twice ({', '.join(classes.values())}): give each its own name"
        )
    return classes


def _split_folders(folder: SourceFolder, config: Mapping[str, Any]) -> dict[str, str]:
    """Start of the photos' names → split, from data.yaml, whose paths may start elsewhere (Roboflow's ``../``)."""
    splits = {}
    for key, value in config.items():
        for place in value if isinstance(value, list) else [value]:
            if key in SPLIT_WORDS and isinstance(place, str) and not place.endswith(".txt"):
                parts = [part for part in place.replace("\\", "/").split("/") if part not in ("", ".", "..")]
                while parts and not (folder.path / "/".join(parts)).is_dir():
                    parts = parts[1:]
                if parts:
                    splits["/".join(parts) + "/"] = SPLIT_WORDS[key]
    return splits


def _objects(path: Path, classes: Mapping[int, str]) -> list[SourceObject]:
    objects = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError:
        raise UserError(f"{path} is not text: export it again") from None
    for i, line in enumerate(lines, start=1):
        if not (words := line.split()):
            continue
        label = f"line {i}"
        if not words[0].isdecimal():
            objects.append(
                SourceObject(label, "", refuse(f"begins with {words[0]!r}, which is not a class id"))
            )
        elif len(words[0]) > 9 or int(words[0]) not in classes:
            objects.append(
                SourceObject(label, "", refuse(f"has class {words[0]}, which data.yaml does not name"))
            )
        else:
            objects.append(SourceObject(label, classes[int(words[0])], partial(_outline, words[1:])))
    return objects


def _outline(words: Sequence[str], width: int, height: int) -> list[np.ndarray]:
    if len(words) == 4:
        raise ValueError("has only a box, and Mask R-CNN learns from masks")
    if len(words) % 2:
        raise ValueError(f"has {len(words)} coordinates, which are not pairs")
    return [np.array([number(word) for word in words]).reshape(-1, 2) * (width, height)]


def write(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Photo]]) -> None:
    """See ``Format``. A mask, or an object of several parts, becomes one polygon with bridges of no width."""
    for split, photos in splits.items():
        folder = root / "labels" / split
        folder.mkdir(parents=True)
        for photo in photos:
            size, lines = (photo.width, photo.height), []
            for each in photo.instances:
                points = single_polygon(each.segmentation, *size) / size
                lines.append(
                    f"{each.class_id} " + " ".join(f"{value:.7g}" for value in points.ravel()) + "\n"
                )
            (folder / f"{Path(photo.name).stem}.txt").write_text("".join(lines), encoding="utf-8")
    config = (
        {"path": "."} | {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(classes))}
    )
    (root / "data.yaml").write_text(
        yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
