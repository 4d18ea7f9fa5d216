"""What the readers of all formats share: the files of a folder, and the form in which annotations are handed on."""

import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.masks import polygons_to_mask
from finetune.errors import UserError
from finetune.files import read_json

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SNIFFED = (
    3  # of the JSON files that have a photo of the same name, so many are opened to recognize the format
)

# Polygons, each (N, 2) x and y in continuous pixels; a COCO RLE of either kind; or a mask, (H, W) bool.
Outline = list[np.ndarray] | dict[str, Any] | np.ndarray


@dataclass(frozen=True)
class Options:
    """How to import; the defaults are those of the command line.

    Attributes:
        class_name: the one class of all objects. class_attribute: the VIA region attribute that names the class.
        val, test: shares of the photos to draw for a split that the source does not have.
        group_by: see ``finetune.data.split.grouping``.
        empty: ``keep`` or ``drop`` photos that were annotated with no object.
        crowd: ``keep`` objects marked ``iscrowd`` (training ignores them), make each an ``object``, or ``drop`` them;
            ``auto`` trains on those that look like single objects.
        negatives: a folder of photos without any object, which join the splits by the same shares.
        skip_bad: leave out objects and photos that cannot be used, instead of stopping at the first.
    """

    class_name: str | None = None
    class_attribute: str | None = None
    val: float = 0.2
    test: float = 0.2
    seed: int = 0
    group_by: str | None = None
    empty: str = "keep"
    crowd: str = "auto"
    negatives: Path | None = None
    skip_bad: bool = False

    def __str__(self) -> str:
        given = {key: value for key, value in vars(self).items() if value is not None}
        return ", ".join(
            f"{key} {value.name if isinstance(value, Path) else value}" for key, value in given.items()
        )


@dataclass(frozen=True)
class SourceObject:
    """One object as a tool wrote it."""

    label: str  # names it in messages: "polygon 3"
    class_name: str
    # (width, height of the photo as it was annotated) → outline; ValueError says what is wrong, as the end of a
    # sentence that begins with the label
    outline: Callable[[int, int], Any]
    iscrowd: bool = False


@dataclass(frozen=True)
class SourcePhoto:
    """One photo and its objects."""

    path: Path
    name: str  # relative to the folder, with slashes
    objects: Sequence[SourceObject]
    split: str | None = None
    size: tuple[int, int] | None = None  # width and height according to the tool
    problem: str = ""  # why the photo cannot be used: it is missing


@dataclass
class Annotations:
    """All that a reader found."""

    photos: list[SourcePhoto]
    files: Sequence[Path]  # the annotation files
    classes: Sequence[str] = ()  # in the order of the tool; empty for alphabetical order
    notes: list[str] = field(default_factory=list)
    crowds_are_objects: str = ""  # why ``iscrowd`` does not mean a crowd here


class SourceFolder:
    """The files of a folder with photos and annotations, hidden ones excluded; none outside it is ever opened.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UserError(f"the folder {path} is not there: check the path")
        self.path = path
        self._files = [
            file
            for file in sorted(path.rglob("*"))
            if not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(path).parts)
            and file.is_file()
        ]
        self.photos = {self.name_of(file): file for file in self.files(*PHOTO_SUFFIXES)}
        self._by_base: dict[str, list[str]] = {}
        for name in self.photos:
            self._by_base.setdefault(posixpath.basename(name), []).append(name)
        self._documents: dict[Path, Any] = {}

    def files(self, *suffixes: str) -> list[Path]:
        """All files with one of these suffixes (in lower case), sorted."""
        return [file for file in self._files if file.suffix.lower() in suffixes]

    def name_of(self, file: Path) -> str:
        """The path of a file relative to the folder, with slashes, in Unicode's composed form."""
        return unicodedata.normalize("NFC", file.relative_to(self.path).as_posix())

    def documents(
        self, is_wanted: Callable[[Any], bool], *, sniff: bool = False
    ) -> Iterator[tuple[Path, Any]]:
        """The JSON files whose content ``is_wanted``, in the order of their names.

        Args:
            sniff: leave out most of the files that each belong to one photo, and those that are not JSON.
        """
        beside_photos = 0
        stems = {posixpath.splitext(name)[0] for name in self.photos} if sniff else set()
        for file in self.files(".json"):
            if posixpath.splitext(self.name_of(file))[0] in stems:
                beside_photos += 1
                if beside_photos > SNIFFED:
                    continue
            try:
                content = self._document(file)
            except UserError:
                if sniff:
                    continue
                raise
            if is_wanted(content):
                yield file, content

    def _document(self, file: Path) -> Any:
        if file not in self._documents:
            if len(self._documents) > 20:  # a labelme file may hold its whole photo
                self._documents.clear()
            self._documents[file] = read_json(file, cure="export it again")
        return self._documents[file]

    def split_of(self, file: Path) -> str | None:
        """The split that the folders above a file name."""
        for part in reversed(file.relative_to(self.path).parts[:-1]):
            if split := SPLIT_WORDS.get(part.lower()):
                return split
        return None

    def photo(
        self,
        name: str,
        listed_in: Path,
        objects: Sequence[SourceObject],
        *,
        split: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> SourcePhoto:
        """Find the photo that an annotation file names, also under an absolute or a Windows path.

        It is looked up among the photos of this folder: relative to the file, relative to the folder, and then by the
        last part of its name. One that is missing or ambiguous is returned with its ``problem``.
        """
        split = split or self.split_of(listed_in)
        wanted = unicodedata.normalize("NFC", name.replace("\\", "/"))
        beside = posixpath.dirname(self.name_of(listed_in))
        for candidate in (posixpath.join(beside, wanted), wanted):
            if (found := posixpath.normpath(candidate)) in self.photos:
                return self._found(found, objects, split, size)
        same = self._by_base.get(posixpath.basename(wanted), [])
        if len(same) > 1 and split:
            same = [each for each in same if self.split_of(self.photos[each]) == split] or same
        if len(same) == 1:
            return self._found(same[0], objects, split, size)
        if not wanted.lower().endswith(PHOTO_SUFFIXES):
            problem = f"which is none of {', '.join(PHOTO_SUFFIXES)}: convert it"
        elif same:
            problem = f"which fits several photos ({', '.join(same[:3])}): write the folder into the name"
        else:
            problem = f"which is not in {self.path}: put it there or remove it from the annotations"
        listed = self.name_of(listed_in)
        return SourcePhoto(
            listed_in, name, objects, split, size, f"{listed} names the photo {name!r}, {problem}"
        )

    def _found(
        self, name: str, objects: Sequence[SourceObject], split: str | None, size: tuple[int, int] | None
    ) -> SourcePhoto:
        path = self.photos[name]
        return SourcePhoto(path, name, objects, split or self.split_of(path), size)


def listing(names: Iterable[str], shown: int = 3) -> str:
    """The first few names, and how many there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def found_files(folder: SourceFolder, is_wanted: Callable[[Any], bool], what: str) -> str | None:
    """The reason that ``recognize`` returns for JSON files."""
    found = [folder.name_of(path) for path, _ in folder.documents(is_wanted, sniff=True)]
    return f"{listing(found)} with {what}" if found else None


def joined(outlines: Sequence[np.ndarray], width: int, height: int) -> list[np.ndarray] | np.ndarray:
    """The outline of an object of several parts: polygons, or one mask if a part is a mask, (H, W) bool."""
    if all(outline.dtype != bool for outline in outlines):
        return list(outlines)
    masks = [each if each.dtype == bool else polygons_to_mask([each], width, height) for each in outlines]
    return np.logical_or.reduce(masks)


def closed_curve(
    center: tuple[float, float], radii: tuple[float, float], angle: float = 0.0, points: int = 90
) -> np.ndarray:
    """The outline (N, 2) of an ellipse, turned clockwise by ``angle`` (radians); 90 points lose 0.08 % of its area."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return turned(np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1), angle) + center


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Turn points (N, 2) about the origin, clockwise on the screen, by ``angle`` in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """The corners (4, 2) of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=float)


def number(value: Any, what: str = "coordinate") -> float:
    """A finite number from a file, also one written as text.

    Raises:
        ValueError: it is not one.
    """
    try:
        if isinstance(value, bool) or not np.isfinite(converted := float(value)):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"has the {what} {value!r}, which is not a finite number") from None
    return converted


def pairs(points: Any) -> np.ndarray:
    """Points (N, 2) from a file's list of pairs.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(points, list) or not all(isinstance(each, list) and len(each) == 2 for each in points):
        raise ValueError("has coordinates that are not numbers in pairs")
    return np.array([(number(x), number(y)) for x, y in points]).reshape(-1, 2)


def refuse(reason: str) -> Callable[[int, int], Any]:
    """An outline that cannot be used: asking for it raises ValueError."""

    def outline(width: int, height: int) -> Any:
        raise ValueError(reason)

    return outline
