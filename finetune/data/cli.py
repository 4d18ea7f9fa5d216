"""``maskrcnn data``: make and check data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# The modules that do the work are imported when a command runs, so --help answers at once.

Command = Callable[..., Any]
PATH = click.Path(path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)
SHARE = click.FloatRange(0, 1, max_open=True)


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of ``--help``."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


force = click.option("--force", is_flag=True, help="Replace the data set at --root.")
root = click.option("--root", type=PATH, required=True, metavar="DIR", help="The folder to make.")
conversion = _options(
    root,
    click.option("--val", type=SHARE, default=0.2, show_default=True, help="Share of the photos for val, if it has no "
                 "annotations of its own."),
    click.option("--test", type=SHARE, default=0.2, show_default=True, help="The same for test."),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Draws these photos."),
    click.option("--skip-bad", is_flag=True, help="Leave out shapes that cannot be used, and list them."),
    force,
)  # fmt: skip


def _report(root: Path, card: dict[str, Any]) -> None:
    counts = ", ".join(f"{split} {count}" for split, count in card["splits"].items())
    click.echo(f"{card['name']}: {counts} photos; classes: {', '.join(card['classes'])}")
    click.echo(root)


@click.group()
def data() -> None:
    """Make and check data sets.

    \b
    Examples:
      maskrcnn data balloon
      maskrcnn data via photos --class mug --root data/mugs
      maskrcnn data check data/mugs
    """


@data.command()
@click.option(
    "--root",
    type=PATH,
    default=Path("data/balloon"),
    show_default=True,
    metavar="DIR",
    help="The folder to make.",
)
@click.option(
    "--from", "origin", type=PATH, metavar="DIR|ZIP", help="Take it from here instead of downloading it."
)
@click.option("--url", help="Where to download it [default: the release on GitHub].")
@click.option("--seed", type=SEED, default=1997, show_default=True, help="Draws the val photos.")
@force
def balloon(root: Path, url: str | None, **options: Any) -> None:
    """The balloon photos of Matterport's Mask R-CNN."""
    from finetune.data.balloon import URL, make_balloon

    _report(root, make_balloon(root, url=url or URL, **options))


class _Size(click.ParamType):
    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            self.fail(f"{value!r} is not a size such as 640x480", param, ctx)
        return int(width), int(height)


@data.command()
@root
@click.option("--images", type=int, default=60, show_default=True, help="How many pictures.")
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="The same seed draws the same pictures."
)
@click.option("--size", type=_Size(), default="640x480", show_default=True, help="In pixels.")
@force
def synthetic(root: Path, **options: Any) -> None:
    """Drawn balloons with exact masks; no download."""
    from finetune.data.synthetic import make_synthetic

    _report(root, make_synthetic(root, **options))


@data.command()
@click.argument("folder", type=PATH)
@click.option("--class", "class_name", metavar="NAME", help="The one class of all regions.")
@click.option("--class-attribute", metavar="NAME", help="The region attribute that names the class.")
@click.option(
    "--keep-empty", is_flag=True, help="Keep photos without a region: they show what is not an object."
)
@conversion
def via(folder: Path, root: Path, **options: Any) -> None:
    """Photos annotated with VIA.

    FOLDER holds the photos and their VIA file, or folders train, val and test that do.
    """
    from finetune.data.importers.via import make_via

    if options["class_name"] and options["class_attribute"]:
        raise click.UsageError("--class and --class-attribute exclude each other: give one")
    _report(root, make_via(folder, root, **options))


@data.command()
@click.option("--images", type=PATH, required=True, metavar="DIR", help="The folder of the images.")
@click.option("--annotations", type=PATH, required=True, metavar="FILE", help="The COCO JSON.")
@click.option("--annotations-val", type=PATH, metavar="FILE", help="That of val, if it has one.")
@click.option("--images-val", type=PATH, metavar="DIR", help="Images of val [default: --images].")
@click.option("--annotations-test", type=PATH, metavar="FILE", help="That of test, if it has one.")
@click.option("--images-test", type=PATH, metavar="DIR", help="Images of test [default: --images].")
@conversion
def coco(images: Path, annotations: Path, root: Path, **options: Any) -> None:
    """Photos with COCO annotations."""
    from finetune.data.importers.coco import make_coco

    files, folders = {"train": annotations}, {"train": images}
    for split in ("val", "test"):
        file, folder = options.pop(f"annotations_{split}"), options.pop(f"images_{split}")
        if file:
            files[split], folders[split] = file, folder or images
    _report(root, make_coco(files, folders, root, **options))


@data.command()
@click.argument("root", type=PATH)
def check(root: Path) -> int:
    """Validate a data set before training on it; exit status 1 if it has errors."""
    from finetune.data.check import check_dataset, print_report

    report = check_dataset(root)
    print_report(report)
    click.echo(root)
    return 1 if report.errors else 0
