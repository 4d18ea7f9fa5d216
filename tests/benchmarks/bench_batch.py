"""A folder's prediction, with and without Ray, against the predictor alone; two Ray nodes of one core against one.

    python -m tests.benchmarks.bench_batch                  # random weights that find about ten objects
    python -m tests.benchmarks.bench_batch --run RUN        # a trained one

The predictor alone has all cores and its photos decoded in memory. `maskrcnn predict` reads and decodes JPEGs, encodes
masks and writes the answers; its rate is that between the first and the last tenth of them, without its start. They
take turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.export.archive import Options, export
from tests.benchmarks.measuring import argument_parser, describe, machine, save, table, write_run_at_800
from tests.toy_models import photo

HEIGHT, WIDTH = 768, 1024
FEWEST = 20  # photos
ALONE = """
import sys, time
from pathlib import Path
import numpy as np
from PIL import Image
sys.path.insert(0, sys.argv[1])
from handler.model.predictor import Predictor
predictor = Predictor.load(Path(sys.argv[1]), device="cpu")
photos = [np.asarray(Image.open(path)) for path in sorted(Path(sys.argv[2]).iterdir())]
predictor.predict(photos[:2])
start = time.perf_counter()
for image in photos:
    predictor.predict([image])
print(len(photos) / (time.perf_counter() - start))
"""


def main() -> int:
    parser = argument_parser(__doc__, "reports/bench_batch")
    parser.add_argument("--backbone", default="mobilenetv2_fpn", help="for random weights")
    parser.add_argument("--run", type=Path, help="a run folder or checkpoint instead of random weights")
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-ray", action="store_true", help="only what needs no Ray")
    args = parser.parse_args()
    if args.photos < FEWEST:
        parser.error(f"--photos {args.photos} is too few: a rate between the tenths needs {FEWEST} or more")
    where = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = write_run_at_800(folder / "run", args.backbone, args.run)
        archive = export(run, Options(output=folder / "exported"))
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder / "unpacked")
        (folder / "photos").mkdir()
        for i in range(args.photos):
            picture = Image.fromarray(photo(HEIGHT, WIDTH, seed=i % 10))
            picture.save(folder / f"photos/{i:04}.jpg", quality=90)
        contestants: dict[str, Callable[[Path], float]] = {
            "predictor alone, all cores": lambda _: alone(folder),
            "a folder": lambda output: predict(archive, folder, output),
        }
        if not args.no_ray:
            contestants |= {
                "… with Ray": lambda output: predict(archive, folder, output, "--ray", "local"),
                "… on one Ray node of one core": lambda output: on_cluster(1, archive, folder, output),
                "… on two Ray nodes of one core": lambda output: on_cluster(2, archive, folder, output),
            }
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(args.rounds):
            for name, measure in contestants.items():
                rates[name].append(measure(folder / f"out{number}" / name.replace(" ", "_")))
                print(f"{name}: {rates[name][-1]:.2f} photos a second", file=sys.stderr, flush=True)
    alone_rates, *_ = rates.values()
    rows: list[dict[str, Any]] = [
        {
            "what": name,
            "photos a second": statistics.median(values),
            # round by round: other load changes between them
            "× predictor": statistics.median(a / b for a, b in zip(values, alone_rates, strict=True)),
        }
        for name, values in rates.items()
    ]
    title = f"{args.run or args.backbone}, {WIDTH}x{HEIGHT}, {args.photos} photos, {describe(where)}"
    text = f"{title}\n\n{table(rows)}"
    save(args.output, "bench_batch", {"machine": where, "rows": rows, "rounds": rates}, text)
    print(f"{text}\n\n{args.output}")
    return 0


def alone(folder: Path) -> float:
    """Photos a second of the archive's own predictor, in a process of its own."""
    command = [sys.executable, "-c", ALONE, str(folder / "unpacked"), str(folder / "photos")]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout)


def predict(archive: Path, folder: Path, output: Path, *options: str) -> float:
    """Photos a second of the command line, once the predictors answer."""
    command = [sys.executable, "-m", "maskrcnn", "predict", str(archive), str(folder / "photos")]
    command += ["--output", str(output), "--shard-size", "1", *options]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode or "errors: 0" not in run.stderr:
        raise RuntimeError(run.stderr[-2000:])
    # a file per photo, named by the nanosecond; without the first and the last tenth, while predictors load or idle
    times = sorted(int(path.name.partition("-")[0]) / 1e9 for path in output.glob("answers/*.jsonl"))
    skipped = len(times) // 10
    steady = times[skipped : len(times) - skipped]
    return (len(steady) - 1) / (steady[-1] - steady[0])


def on_cluster(nodes: int, archive: Path, folder: Path, output: Path) -> float:
    """The same on a cluster of this machine's, a node a core."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 500 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1, object_store_memory=500 * 2**20)
        return predict(archive, folder, output, "--ray", cluster.address)
    finally:
        cluster.shutdown()
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
