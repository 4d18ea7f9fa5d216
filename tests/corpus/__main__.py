"""``python -m tests.corpus``: write the corpus to files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import tests.corpus
from tests.corpus import corpus


def main() -> int:
    parser = argparse.ArgumentParser(
        description=tests.corpus.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    index = []
    for number, case in enumerate(corpus(args.seed)):
        (args.folder / f"{number:04}.bin").write_bytes(case.body)
        index.append(
            {
                "file": f"{number:04}.bin",
                "name": case.name,
                "content_type": case.content_type,
                "filename": case.filename,
                "headers": dict(case.headers),
            }
        )
    (args.folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    print(f"{len(index)} cases in {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
