"""``python -m finetune data …``: make and check data sets."""

import argparse
from pathlib import Path
from typing import Any

from finetune.data import balloon


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register ``data`` and its subcommands."""
    data = subparsers.add_parser(
        "data", help="make or check a data set", description="Make or check a data set."
    )
    commands = data.add_subparsers(metavar="KIND", required=True)
    _add_balloon(commands)


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
    parser = _make_command(
        commands, "balloon", "the balloon photos of Matterport's Mask R-CNN, downloaded or given"
    )
    parser.add_argument("--root", type=Path, default=Path("data/balloon"), help="default: %(default)s")
    parser.add_argument(
        "--from", dest="origin", type=Path, metavar="DIR|ZIP", help="take it from here instead of downloading"
    )
    parser.add_argument("--url", default=balloon.URL, help="where to download it; default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=1997, help="draws the validation photos; default: %(default)s"
    )
    parser.set_defaults(run=_run_balloon)


def _run_balloon(args: argparse.Namespace) -> int:
    card = balloon.make_balloon(args.root, origin=args.origin, url=args.url, seed=args.seed, force=args.force)
    return _report(args.root, card)
