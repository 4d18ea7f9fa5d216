"""``python -m finetune data …``: make and check data sets."""

import argparse
from pathlib import Path
from typing import Any

# The modules that do the work are imported when a command runs: --help stays fast.


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register ``data`` and its subcommands."""
    text = "make or check a data set"
    data = subparsers.add_parser("data", help=text, description=text.capitalize() + ".")
    commands = data.add_subparsers(metavar="KIND", required=True)
    _add_balloon(commands)
    _add_synthetic(commands)
    _add_via(commands)
    _add_coco(commands)
    _add_check(commands)


def _make_command(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:]
    )
    parser.add_argument("--force", action="store_true", help="replace the data set that lies at --root")
    return parser


def _report(root: Path, card: dict[str, Any]) -> int:
    counts = ", ".join(f"{split} {count}" for split, count in card["splits"].items())
    print(f"{card['name']}: {counts} photos; classes: {', '.join(card['classes'])}")
    print(root)
    return 0


def _add_balloon(commands: argparse._SubParsersAction) -> None:
    parser = _make_command(commands, "balloon", "the balloon photos of Matterport's Mask R-CNN")
    parser.add_argument("--root", type=Path, default=Path("data/balloon"), help="default: %(default)s")
    parser.add_argument(
        "--from", dest="origin", type=Path, metavar="DIR|ZIP", help="take it from here instead of downloading"
    )
    parser.add_argument("--url", help="where to download it (default: the release on GitHub)")
    parser.add_argument("--seed", type=_seed, default=1997, help="draws the val photos; default: %(default)s")
    parser.set_defaults(run=_run_balloon)


def _run_balloon(args: argparse.Namespace) -> int:
    from finetune.data import balloon

    card = balloon.make_balloon(
        args.root, origin=args.origin, url=args.url or balloon.URL, seed=args.seed, force=args.force
    )
    return _report(args.root, card)


def _add_synthetic(commands: argparse._SubParsersAction) -> None:
    parser = _make_command(commands, "synthetic", "drawn balloons with exact masks: no download")
    parser.add_argument("--root", type=Path, required=True, help="the folder to make")
    parser.add_argument("--images", type=int, default=60, help="how many pictures; default: %(default)s")
    parser.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")
    parser.add_argument(
        "--size", type=_size, default=(640, 480), metavar="WxH", help="in pixels; default: 640x480"
    )
    parser.set_defaults(run=_run_synthetic)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 4294967295")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return int(width), int(height)


def _run_synthetic(args: argparse.Namespace) -> int:
    from finetune.data import synthetic

    card = synthetic.make_synthetic(
        args.root, images=args.images, seed=args.seed, size=args.size, force=args.force
    )
    return _report(args.root, card)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1, such as 0.2")
    return share


def _add_conversion_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="the folder to make")
    text = "share of the photos for this split, where it has no annotations of its own; default: %(default)s"
    parser.add_argument("--val", type=_share, default=0.2, metavar="SHARE", help=text)
    parser.add_argument("--test", type=_share, default=0.2, metavar="SHARE", help=text)
    parser.add_argument("--seed", type=_seed, default=0, help="draws these photos; default: %(default)s")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out shapes that cannot be used, and say so"
    )


def _add_via(commands: argparse._SubParsersAction) -> None:
    parser = _make_command(commands, "via", "your own photos, annotated with VIA")
    text = "photos and their VIA file, or the folders train, val and test with their own"
    parser.add_argument("folder", type=Path, metavar="DIR", help=text)
    _add_conversion_options(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--class", dest="class_name", metavar="NAME", help="the one class of all regions")
    which.add_argument("--class-attribute", metavar="NAME", help="the region attribute that names the class")
    parser.add_argument("--keep-empty", action="store_true", help="keep photos that have no region")
    parser.set_defaults(run=_run_via)


def _run_via(args: argparse.Namespace) -> int:
    from finetune.data.importers import via

    card = via.make_via(
        args.folder,
        args.root,
        class_name=args.class_name,
        class_attribute=args.class_attribute,
        val=args.val,
        test=args.test,
        seed=args.seed,
        keep_empty=args.keep_empty,
        skip_bad=args.skip_bad,
        force=args.force,
    )
    return _report(args.root, card)


def _add_coco(commands: argparse._SubParsersAction) -> None:
    parser = _make_command(commands, "coco", "your own photos, with COCO annotations")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the folder of the images")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="the COCO JSON")
    for split in ("val", "test"):
        parser.add_argument(
            f"--annotations-{split}", type=Path, metavar="FILE", help=f"that of {split}, if it has one"
        )
        parser.add_argument(f"--images-{split}", type=Path, metavar="DIR", help="default: that of --images")
    _add_conversion_options(parser)
    parser.set_defaults(run=_run_coco)


def _run_coco(args: argparse.Namespace) -> int:
    from finetune.data.importers import coco

    given = {"train": args.annotations, "val": args.annotations_val, "test": args.annotations_test}
    folders = {"train": args.images, "val": args.images_val, "test": args.images_test}
    annotations = {split: path for split, path in given.items() if path}
    card = coco.make_coco(
        annotations,
        {split: folders[split] or args.images for split in annotations},
        args.root,
        val=args.val,
        test=args.test,
        seed=args.seed,
        skip_bad=args.skip_bad,
        force=args.force,
    )
    return _report(args.root, card)


def _add_check(commands: argparse._SubParsersAction) -> None:
    text = "look a data set over; exit status 1 if something is wrong"
    parser = commands.add_parser("check", help=text, description=text[0].upper() + text[1:])
    parser.add_argument("root", type=Path, metavar="DIR", help="a data set made by one of the other commands")
    parser.set_defaults(run=_run_check)


def _run_check(args: argparse.Namespace) -> int:
    from finetune.data import check

    report = check.check_dataset(args.root)
    check.print_report(report)
    print(args.root)
    return 1 if report.errors else 0
