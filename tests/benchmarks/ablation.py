"""What each piece of the recipe is worth: one training per row, with that piece changed and all else equal.

    python -m tests.benchmarks.ablation --data data/balloon --weights imagenet
    python -m tests.benchmarks.ablation --data data/balloon --row recipe --row copy-paste SOLVER.MAX_ITER 300

A row's score is that of its best checkpoint on the val split; the test split is not used. If stopped, the same
command continues where it was. Few photos make a noisy score: ``--seeds 3`` trains every row three times.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from finetune.files import read_json
from tests.benchmarks.measuring import machine, save, table

ROWS = {
    "recipe": "",
    "no scale jitter": "FINETUNE.AUGMENT.SCALE_MIN 1.0 FINETUNE.AUGMENT.SCALE_MAX 1.0",
    "no color jitter": "FINETUNE.AUGMENT.BRIGHTNESS 0.0 FINETUNE.AUGMENT.CONTRAST 0.0 FINETUNE.AUGMENT.SATURATION 0.0 "
    "FINETUNE.AUGMENT.HUE 0.0",
    "no flips": "FINETUNE.AUGMENT.FLIP 0.0",
    "copy-paste": "FINETUNE.AUGMENT.COPY_PASTE 0.5",
    "averaged weights": "FINETUNE.EMA_DECAY 0.99",
    "constant rate": "SOLVER.LR_SCHEDULER_NAME WarmupMultiStepLR",
    "backbone as fast as heads": "FINETUNE.BACKBONE_LR_FACTOR 1.0",
    "backbone half frozen": "MODEL.BACKBONE.FREEZE_AT 3",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="mobilenetv2_fpn")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--row", action="append", choices=ROWS, help="only these (default: all)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--output", type=Path, default=Path("reports/ablation"))
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys for all rows")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in args.row or ROWS:
        best = [train(args, name, seed)["best"] for seed in range(args.seeds)]
        scores = [each["segm_AP"] for each in best]
        rows.append(
            {
                "recipe with": name,
                "val segm AP": statistics.fmean(scores),
                "val bbox AP": statistics.fmean(each["bbox_AP"] for each in best),
                "against the first": statistics.fmean(scores) - rows[0]["val segm AP"] if rows else 0.0,
                "lowest": min(scores),
                "highest": max(scores),
            }
        )
        print(f"{name}: val segm AP {rows[-1]['val segm AP']:.1f}", file=sys.stderr, flush=True)
    where = machine()
    what = " ".join([args.backbone, "from", Path(args.weights).name, *args.overrides])
    text = f"{what}; {args.seeds} seed(s); {where['gpu'] or where['processor']}\n\n{table(rows)}"
    save(args.output, "ablation", {"machine": where, "what": what, "seeds": args.seeds, "rows": rows}, text)
    print(f"{text}\n\n{args.output}")
    return 0


def train(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Train one row, or continue it, or do nothing if it is finished; return its ``run.json``."""
    run = args.runs / f"{name.replace(' ', '_')}-{seed}"
    begun = (run / "last.pth").exists()
    record: dict[str, Any] = read_json(run / "run.json") if begun else {}
    if not begun or record["iterations"] < record["planned_iterations"]:
        fresh = ["--weights", args.weights, "SEED", str(seed), *args.overrides, *ROWS[name].split()]
        command = [sys.executable, "-m", "finetune", "train", args.backbone, "--data", str(args.data)]
        command += ["--output", str(run), *(["--resume"] if begun else fresh)]
        if code := subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            sys.exit(code)  # the training printed the error
        record = read_json(run / "run.json")
    return record


if __name__ == "__main__":
    sys.exit(main())
