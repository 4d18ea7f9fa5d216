"""What the readers of all formats share: the files of a folder, and the form in which annotations are handed on."""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.files import read_json

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_WORDS = {"train": "train training", "val": "val valid validation", "test": "test testing"}
SPLIT_WORDS = {word: split for split, words in _WORDS.items() for word in words.split()}
SNIFFED = 3  # files opened to recognize a format that has one JSON file per photo
KEPT = 20  # parsed files kept in memory: a labelme file may hold its whole photo


@dataclass(frozen=True)
class Options:
    """How to import: the options of ``maskrcnn data import``, by the same names and defaults."""

    format_name: str | None = None
    images: Path | None = None
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
        return ", ".join(f"{key} {getattr(value, 'name', value)}" for key, value in given.items())


@dataclass(frozen=True)
class SourceObject:
    """One object as a tool wrote it.

    Attributes:
        label: names it in messages: "polygon 3".
        outline: (width, height of the photo as it was annotated) → a list of polygons, each (N, 2) x and y in
            continuous pixels; or a COCO RLE of either kind; or a mask, (H, W) bool. ValueError says what is wrong, as
            the end of a sentence that begins with the label.
    """

    label: str
    class_name: str
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
    """All that a reader found, and what became of it."""

    photos: list[SourcePhoto]
    classes: list[str] = field(default_factory=list)  # in the order of the tool; empty for alphabetical order
    notes: list[str] = field(default_factory=list)  # what the user should know: what was left out, and why
    crowds: Counter[str] = field(default_factory=Counter)  # what became of objects marked ``iscrowd``
    crowds_are_objects: bool = False  # the tool marks every mask ``iscrowd``


class SourceFolder:
    """Annotation files and photos, hidden files excluded; no file outside their folders is ever opened.

    Args:
        path: a folder, or one annotation file.
        images: the folder of the photos, if they lie elsewhere.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, path: Path, images: Path | None = None) -> None:
        self.path = path.parent if path.is_file() else path
        self.images = images or self.path
        self._files = [path] if path.is_file() else _files_below(path)
        every = self._files if self.images == path else _files_below(self.images)
        photos = [file for file in every if file.suffix.lower() in PHOTO_SUFFIXES]
        self.photos = {_relative(file, self.images): file for file in photos}
        self._by_base: dict[str, list[str]] = {}
        for name in self.photos:
            self._by_base.setdefault(posixpath.basename(name), []).append(name)
        self._document = lru_cache(KEPT)(partial(read_json, cure="export it again"))

    def files(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes (in lower case), sorted; not the photos in a folder of their own."""
        return [file for file in self._files if file.suffix.lower() in suffixes]

    def name_of(self, file: Path) -> str:
        """The path of a file relative to the folder, with slashes, in Unicode's composed form."""
        return _relative(file, self.path)

    def documents(
        self, *, is_wanted: Callable[[Any], bool], sniff: bool = False
    ) -> Iterator[tuple[Path, Any]]:
        """The JSON files whose content ``is_wanted``, in the order of their names.

        Args:
            sniff: skip damaged files, and most of the files that each belong to one photo.
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

    def photo(
        self,
        name: str,
        listed_in: Path,
        objects: Sequence[SourceObject],
        *,
        split: str | None = None,
        size: tuple[Any, Any] = (None, None),
    ) -> SourcePhoto:
        """Find the photo that an annotation file names, also under an absolute or a Windows path.

        It is looked up relative to the annotation file, relative to the folder, and then by the last part of its name.
        One that is missing or ambiguous is returned with its ``problem``.

        Args:
            size: width and height according to the annotation file, ignored unless both are whole numbers.
        """
        listed = self.name_of(listed_in)
        split = split or split_of(listed)
        known = size if all(isinstance(each, int) for each in size) else None
        wanted = posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(listed), wanted))
        same = self._by_base.get(posixpath.basename(wanted), [])
        if len(same) > 1 and split:
            same = [each for each in same if split_of(each) == split] or same
        for found in (beside, wanted, *(same if len(same) == 1 else ())):
            if found in self.photos:
                return SourcePhoto(self.photos[found], found, objects, split or split_of(found), known)
        if not wanted.lower().endswith(PHOTO_SUFFIXES):
            problem = f"which is none of {', '.join(PHOTO_SUFFIXES)}: convert it"
        elif same:
            problem = f"which fits several photos ({listing(same)}): write the folder into the name"
        else:
            problem = f"which is not in {self.images}: put it there or remove it from the annotations"
        problem = f"{listed} names the photo {name!r}, {problem}"
        return SourcePhoto(listed_in, name, objects, split, known, problem)


def _files_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"the folder {folder} is not there: check the path")
    return [
        file
        for file in sorted(folder.rglob("*"))
        if not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)
        and file.is_file()
    ]


def _relative(file: Path, folder: Path) -> str:
    return unicodedata.normalize("NFC", file.relative_to(folder).as_posix())


def split_of(name: str) -> str | None:
    """The split that the folders in a file's relative name tell."""
    words = (SPLIT_WORDS.get(part.lower()) for part in reversed(name.split("/")[:-1]))
    return next(filter(None, words), None)


def fits(content: Any, /, **types: Any) -> bool:
    """Whether a JSON value is an object whose entries are of these types: ``fits(task, data=dict, id=int | str)``."""
    return isinstance(content, dict) and all(
        isinstance(content.get(key), each) for key, each in types.items()
    )


def listing(names: Iterable[str], shown: int = 3) -> str:
    """The first few names, and how many there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
