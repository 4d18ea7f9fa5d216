"""``maskrcnn data …``: make, check, merge and export data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.data.formats import FORMATS

# The modules that do the work are imported when a command runs, so that --help answers at once.

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)
SHARE = click.FloatRange(0, 1, max_open=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Make, check, merge and export data sets.

    \b
    Examples:
      maskrcnn data import photos --class mug --root data/mugs
      maskrcnn data check data/mugs
    """


def _report(root: Path, card: dict[str, Any]) -> None:
    counts = ", ".join(f"{split} {count}" for split, count in card["splits"].items())
    click.echo(f"{card['name']}: {counts} photos; classes: {', '.join(card['classes'])}", err=True)
    click.echo(root)


_force = click.option("--force", is_flag=True, help="Replace what is at --root.")
_folder = click.argument("root", type=DIRECTORY, metavar="DIR")
_root = click.option("--root", type=DIRECTORY, required=True, help="The folder to make.")


def option(*names: str, default: Any, **settings: Any) -> Any:
    """An option whose help shows the default."""
    return click.option(*names, default=default, show_default=True, **settings)


@data.command()
@option("--root", type=DIRECTORY, default="data/balloon", help="The folder to make.")
@click.option("--from", "origin", type=FILE, metavar="DIR|ZIP", help="Take it from here, not from GitHub.")
@_force
def balloon(root: Path, origin: Path | None, force: bool) -> None:
    """The balloon photos of Matterport's Mask R-CNN.

    \b
    Examples:
      maskrcnn data balloon
      maskrcnn data balloon --from balloon_dataset.zip --root data/balloon
    """
    from finetune.data.balloon import make_balloon

    _report(root, make_balloon(root, origin=origin, force=force))


def _size(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    width, _, height = value.partition("x")
    if not all(each.isdecimal() and 64 <= int(each) <= 4096 for each in (width, height)):
        raise click.BadParameter(f"{value!r} is not a size such as 640x480, of 64 to 4096 pixels a side")
    return int(width), int(height)


@data.command()
@_root
@option("--images", type=click.IntRange(min=3), default=60, help="Number of pictures.")
@option("--seed", type=SEED, default=0, help="The same seed draws the same pictures.")
@option("--size", callback=_size, default="640x480", metavar="WxH", help="In pixels.")
@_force
def synthetic(root: Path, images: int, seed: int, size: tuple[int, int], force: bool) -> None:
    """Drawn balloons with exact masks, without a download.

    \b
    Example:
      maskrcnn data synthetic --images 60 --root data/synthetic
    """
    from finetune.data.synthetic import make_synthetic

    _report(root, make_synthetic(root, images=images, seed=seed, size=size, force=force))


@data.command("import")
@click.argument("source", type=FILE)
@_root
@click.option("--images", type=DIRECTORY, help="Where the photos are, if not next to the annotations.")
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="Recognized if not given.")
@click.option("--class", "class_name", metavar="NAME", help="The one class of all objects.")
@click.option("--class-attribute", metavar="NAME", help="The VIA region attribute that names the class.")
@option("--val", type=SHARE, default=0.2, help="Share of the photos for val, if the source has none.")
@option("--test", type=SHARE, default=0.2, help="Share of the photos for test, if the source has none.")
@option("--seed", type=SEED, default=0, help="Draws these photos.")
@click.option(
    "--group-by", metavar="REGEX|folder", help="Keep a folder, or names that match alike, in one split."
)
@option(
    "--empty", type=click.Choice(("keep", "drop")), default="keep", help="Photos annotated with no object."
)
@click.option("--negatives", type=DIRECTORY, help="Add photos that show no object.")
@option(
    "--crowd",
    type=click.Choice(("auto", "keep", "object")),
    default="auto",
    help="Objects marked iscrowd: training ignores those that are kept.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out what cannot be used, and say so.")
@_force
def import_(source: Path, root: Path, force: bool, **options: Any) -> None:
    """Import annotated photos from a folder or a zip.

    Reads VIA, COCO, labelme, YOLO segmentation, Label Studio and CVAT.

    \b
    Examples:
      maskrcnn data import export.zip --root data/mugs
      maskrcnn data import photos --class mug --root data/mugs
      maskrcnn data import mugs.json --images photos --root data/mugs
      maskrcnn data import frames --group-by folder --negatives empty_rooms --root data/rooms
    """
    from finetune.data.formats.source import Options
    from finetune.data.importing import import_dataset

    if options["class_name"] and options["class_attribute"]:
        raise click.UsageError("--class and --class-attribute exclude each other: give one")
    _report(root, import_dataset(source, root, Options(**options), force=force))


@data.command()
@_folder
def check(root: Path) -> int:
    """Check a data set before training on it.

    The exit status is 1 if it has errors.

    \b
    Example:
      maskrcnn data check data/mugs
    """
    from finetune.data.check import check_dataset, print_report

    report = check_dataset(root)
    print_report(report)
    click.echo(root)
    return 1 if report.errors else 0


@data.command()
@click.argument("old", type=DIRECTORY)
@click.argument("new", type=DIRECTORY)
@_root
@_force
def merge(old: Path, new: Path, root: Path, force: bool) -> None:
    """Merge a corrected or enlarged data set into an older one.

    The newer annotations of a photo win; photos of the older set stay in their split.

    \b
    Example:
      maskrcnn data merge data/mugs data/mugs_corrected --root data/mugs_2
    """
    from finetune.data.merge import merge_datasets

    _report(root, merge_datasets(old, new, root, force=force))


_format = click.option(
    "--format", "format_name", type=click.Choice(FORMATS), required=True, help="Of the tool."
)


@data.command("from-review")
@click.argument("store", type=DIRECTORY)
@_root
@_format
@_force
def from_review(store: Path, root: Path, format_name: str, force: bool) -> None:
    """Write the photos kept for review, for an annotation tool.

    `maskrcnn web --review STORE` kept them, with the model's answers.

    \b
    Example:
      maskrcnn data from-review .serve/review --root review --format labelme
    """
    from finetune.data.review import export_review

    click.echo(export_review(store, format_name, root, force=force))


@data.command()
@_folder
@_format
@click.option("--output", type=DIRECTORY, help="The folder to make.  [default: DIR_FORMAT]")
@_force
def export(root: Path, format_name: str, output: Path | None, force: bool) -> None:
    """Write a data set in the format of another tool.

    The photos are copied along.

    \b
    Example:
      maskrcnn data export data/mugs --format labelme --output mugs_labelme
    """
    from finetune.data.exporting import export_dataset

    output = output or root.with_name(f"{root.name}_{format_name}")
    click.echo(export_dataset(root, format_name, output, force=force))
