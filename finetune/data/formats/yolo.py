"""YOLO segmentation labels, as Ultralytics, Roboflow and CVAT lay them out.

``data.yaml`` names the classes; a text file beside each photo, or under ``labels`` where the photo lies under
``images``, has a line ``class x1 y1 x2 y2 …`` per polygon, in shares of the upright photo. An empty file means that
there is nothing to find. The format has no holes and no objects of several parts.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from finetune.data.dataset import Photo
from finetune.data.formats.shapes import number, refuse
from finetune.data.formats.source import (
    SPLIT_WORDS,
    Annotations,
    Options,
    SourceFolder,
    SourceObject,
    SourcePhoto,
    listing,
    split_of,
)
from finetune.data.masks import single_polygon
from finetune.errors import UserError

TITLE = "YOLO-seg"
PHOTOS = "images/{split}"
ADVICE = "put the folder labels beside the folder images"
# text files that are no labels, unless they lie in a folder called labels
NOT_LABELS = {"train", "val", "valid", "test", "classes", "obj", "requirements", "license"}


def find(folder: SourceFolder, *, sniff: bool = False) -> Iterator[tuple[Path, Any]]:
    """See ``Format``; the content is the text."""
    labels = [path for path in folder.files(".txt") if _is_label(folder.name_of(path))]
    if sniff and labels and not any("names:" in _text(path) for path in folder.files(".yaml", ".yml")):
        words = _text(labels[0]).split()
        if len(words) < 5 or not words[0].isdecimal():
            return
    for path in labels:
        yield path, None if sniff else _text(path)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _is_label(name: str) -> bool:
    stem = PurePosixPath(name).stem.lower()
    return "labels" in name.split("/")[:-1] or not (stem in NOT_LABELS or stem.startswith("readme"))


def read(folder: SourceFolder, found: Iterator[tuple[Path, Any]], options: Options) -> Annotations:
    """See ``Format``."""
    configs = {path: _load_yaml(path) for path in folder.files(".yaml", ".yml")}
    configs = {path: content for path, content in configs.items() if content.get("names")}
    if len(configs) > 1:
        raise UserError(f"{folder.path} holds several data.yaml ({listing(map(str, configs))}): leave one")
    config = next(iter(configs.values()), {})
    classes, splits = _class_names(folder, config.get("names")), _split_folders(folder, config)
    photos_of = _photos_by_label(folder)
    result = Annotations([], list(classes.values()))
    for path, text in found:
        lines = enumerate(text.splitlines(), start=1)
        objects = [_object(f"line {i}", line.split(), classes) for i, line in lines if line.strip()]
        label = folder.name_of(path)
        names = photos_of.get(posixpath.splitext(label)[0], [])
        if len(names) == 1:
            (name,) = names
            given = (split for start, split in splits.items() if name.startswith(start))
            photo = SourcePhoto(folder.photos[name], name, objects, next(given, None) or split_of(name))
        else:
            several = f"fits several photos ({listing(names)}): give each its own name"
            missing = "has no photo of the same name: put it there or remove the label file"
            photo = SourcePhoto(path, label, objects, problem=f"{label} {several if names else missing}")
        result.photos.append(photo)
    return result


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path} is not valid YAML: export it again") from None
    return content if isinstance(content, dict) else {}


def _photos_by_label(folder: SourceFolder) -> dict[str, list[str]]:
    """Name of a label file, without its suffix → the photos that it may belong to."""
    photos: dict[str, list[str]] = {}
    for name in folder.photos:
        stem = posixpath.splitext(name)[0]
        photos.setdefault(stem, []).append(name)
        above, found, below = f"/{stem}".rpartition("/images/")
        if found:
            photos.setdefault(f"{above}/labels/{below}"[1:], []).append(name)
    return photos


def _class_names(folder: SourceFolder, names: Any) -> dict[int, str]:
    """Class id → name, from the ``names`` of data.yaml, or from classes.txt."""
    if not names:
        lists = [path for path in folder.files(".txt") if path.stem.lower() in ("classes", "obj")]
        if not lists:
            raise UserError(f"{folder.path} names no classes: add data.yaml with names, or classes.txt")
        names = _text(lists[0]).splitlines()
    try:
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        classes = {int(key): str(name).strip() for key, name in pairs}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{folder.path}: names in data.yaml is no list of class names: correct it") from None
    if len(set(classes.values())) < len(classes):
        raise UserError(f"{folder.path} names a class twice ({', '.join(classes.values())}): rename one")
    return classes


def _split_folders(folder: SourceFolder, config: Mapping[str, Any]) -> dict[str, str]:
    """Start of the photos' names → split, from data.yaml, whose paths may start elsewhere (Roboflow's ``../``)."""
    splits = {}
    for key in filter(SPLIT_WORDS.get, config):
        for place in config[key] if isinstance(config[key], list) else [config[key]]:
            parts = [part for part in str(place).replace("\\", "/").split("/") if part not in ("", ".", "..")]
            while parts and not (folder.path / "/".join(parts)).is_dir():
                parts = parts[1:]
            if parts:
                splits["/".join(parts) + "/"] = SPLIT_WORDS[key]
    return splits


def _object(label: str, words: Sequence[str], classes: Mapping[int, str]) -> SourceObject:
    first = words[0]
    if not first.isdecimal():
        return SourceObject(label, "", partial(refuse, f"begins with {first!r}, which is not a class id"))
    if len(first) > 9 or int(first) not in classes:
        return SourceObject(label, "", partial(refuse, f"has class {first}, which data.yaml does not name"))
    return SourceObject(label, classes[int(first)], partial(_outline, words[1:]))


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
            size, text = (photo.width, photo.height), ""
            for each in photo.instances:
                points = single_polygon(each.segmentation, *size) / size
                text += " ".join([str(each.class_id), *(f"{value:.7g}" for value in points.ravel())]) + "\n"
            (folder / f"{Path(photo.name).stem}.txt").write_text(text, encoding="utf-8")
    config: dict[str, Any] = {"path": "."} | {split: f"images/{split}" for split in splits}
    text = yaml.safe_dump(config | {"names": dict(enumerate(classes))}, sort_keys=False, allow_unicode=True)
    (root / "data.yaml").write_text(text, encoding="utf-8")
