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
    parser.add_argument("--seed", type=int, default=1997, help="draws the val photos; default: %(default)s")
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
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--size", type=_size, default=(640, 480), metavar="WxH", help="in pixels; default: 640x480"
    )
    parser.set_defaults(run=_run_synthetic)


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
