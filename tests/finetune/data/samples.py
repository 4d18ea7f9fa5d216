"""Small photos and annotation files for the tests of the data room."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.commands import finetune

FIXTURES = Path(__file__).parent / "fixtures"


def save_photo(path: Path, width: int = 40, height: int = 30, *, orientation: int = 1, seed: int = 0) -> Path:
    """A photo of noise, no two seeds alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def polygon(*points: tuple[float, float]) -> dict[str, Any]:
    """A VIA polygon."""
    return {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


TRIANGLE = polygon((5, 5), (20, 5), (5, 20))


def via_entry(name: str, *shapes: dict[str, Any], as_dict: bool = False, **attributes: Any) -> dict[str, Any]:
    """What VIA writes for one photo; every region gets the same attributes."""
    regions: Any = [{"shape_attributes": shape, "region_attributes": attributes} for shape in shapes]
    if as_dict:
        regions = {str(i): region for i, region in enumerate(regions)}
    return {"filename": name, "size": 1, "regions": regions, "file_attributes": {}}


def save_via(folder: Path, *entries: dict[str, Any], name: str = "via_region_data.json") -> Path:
    """A VIA export in ``folder``; photos that are not there yet are made."""
    for entry in entries:
        if not (folder / entry["filename"]).exists():
            save_photo(
                folder / entry["filename"], seed=zlib.crc32(f"{folder.name}/{entry['filename']}".encode())
            )
    path = folder / name
    path.write_text(json.dumps({entry["filename"] + "1": entry for entry in entries}))
    return path


def via_folder(folder: Path, count: int = 5, **attributes: Any) -> Path:
    """A folder with photos of one triangle each."""
    save_via(folder, *(via_entry(f"{i}.jpg", TRIANGLE, **attributes) for i in range(count)))
    return folder


def cvat_file(folder: Path, shapes: str, image: str = 'name="a.png" width="80" height="60"') -> None:
    """A photo and CVAT's XML with these shapes."""
    save_photo(folder / "a.png", 80, 60)
    (folder / "a.xml").write_text(f'<annotations><image id="0" {image}>{shapes}</image></annotations>')


def yolo_folder(labels: str, names: str = "names: [mug]") -> Callable[[Path], None]:
    """Writes a photo, its YOLO labels and data.yaml into a folder."""

    def write(folder: Path) -> None:
        save_photo(folder / "images" / "a.jpg")
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").write_text(labels)
        (folder / "data.yaml").write_text(names)

    return write


def run(*args: object) -> int:
    """Run ``maskrcnn`` in this process; return the exit status."""
    return finetune(args)


def run_import(source: Path, *options: object, format: str = "via") -> int:
    """``maskrcnn data import SOURCE --format FORMAT …``."""
    return run("data", "import", source, "--format", format, *options)


def nothing_left(root: Path) -> bool:
    """Whether neither the data set nor a half-written one lies there."""
    return not root.exists() and not list(root.parent.glob(f".{root.name}*"))
