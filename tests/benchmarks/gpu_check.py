"""Prove the GPU path in ten minutes: seven steps, each with a time limit, JSON after each, exit status 1 on a failure.

    python -m tests.benchmarks.gpu_check                    # on a machine with a GPU
    python -m tests.benchmarks.gpu_check --dry-run          # the same steps on a processor, with a toy model
    python -m tests.benchmarks.gpu_check --packages DIR     # a bare machine: DIR holds the packages that it lacks
    python -m tests.benchmarks.gpu_check --steps equality latency

A step that cannot run here (no Java, no ``torchrun``) is "skipped", and says why.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import argument_parser, end_on_sigterm, machine, row_per_line, table

SECONDS = {
    "ceilings": 60,
    "equality": 120,
    "latency": 150,
    "failures": 90,
    "training": 240,
    "accuracy": 150,
    "serving": 300,
}
"""The steps, in their order, and the time limit of each. Each runs in a process of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argument_parser(__doc__, "reports/gpu_check")
    parser.add_argument("--steps", nargs="+", choices=SECONDS, default=list(SECONDS), metavar="NAME")
    parser.add_argument("--dry-run", action="store_true", help="on the processor, with a toy model")
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="put this folder on the path of every Python"
    )
    args = parser.parse_args(arguments)
    end_on_sigterm()
    if args.packages:
        # a .pth file, since export starts Python with -I, which ignores PYTHONPATH
        site = Path(sysconfig.get_path("purelib"))
        (site / "gpu_check.pth").write_text(f"{args.packages.resolve()}\n")
    report: dict[str, Any] = {"machine": machine(), "dry_run": args.dry_run, "steps": {}}
    for name in args.steps:
        print(f"{name} …", file=sys.stderr, flush=True)
        report["steps"][name] = run_step(name, dry_run=args.dry_run)
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "gpu_check.json").write_text(row_per_line(report), encoding="utf-8")
    rows = [{"step": name, **outcome} for name, outcome in report["steps"].items()]
    print(table([{**row, "figures": json.dumps(row["figures"])[:160]} for row in rows]))
    print(args.output)
    return int(any(row["result"] == "failed" for row in rows))


def run_step(name: str, *, dry_run: bool) -> dict[str, Any]:
    """Run one step in a process of its own: ``result`` (passed, failed, skipped), ``seconds``, ``figures``."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "tests.benchmarks.gpu_steps", name, folder, str(answer)]
        try:
            run = subprocess.run(
                [*command, *["--dry-run"] * dry_run],
                capture_output=True,
                text=True,
                timeout=SECONDS[name] * (5 if dry_run else 1),  # a busy processor is not what is tried
            )
            failure = run.stderr.strip().splitlines()[-8:] if run.returncode else None
        except subprocess.TimeoutExpired:
            failure = [f"took longer than {SECONDS[name]} s"]
        if failure:
            outcome: dict[str, Any] = {"result": "failed", "figures": {"error": failure}}
        else:
            figures = json.loads(answer.read_text(encoding="utf-8"))
            outcome = {"result": "skipped" if "skipped" in figures else "passed", "figures": figures}
    return {"result": outcome["result"], "seconds": round(time.monotonic() - begun, 1), **outcome}


if __name__ == "__main__":
    sys.exit(main())
