"""AP against latency over input sizes and numbers of proposals.

    python -m tests.benchmarks.bench_options RUN|CHECKPOINT --data DIR [--split val]

For every setting, one archive's config is changed and its predictor reloaded. Latency is the median over the
photos of the split, one at a time.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageOps

from finetune.data.dataset import load_split
from finetune.evaluation.coco_eval import ground_truth, match, summarize
from finetune.export.archive import Options, export
from handler.api.options import Options as Asked
from handler.api.responses import coco_results
from handler.model.predictor import Predictor
from tests.benchmarks.bench_predictor import describe
from tests.benchmarks.measuring import argument_parser, machine, save, table

SIZES = (320, 400, 480, 560, 640, 720, 800)
PROPOSALS = (1000, 300, 100)


def main() -> int:
    parser = argument_parser(__doc__, "reports/bench_options")
    parser.add_argument("trained", type=Path, metavar="RUN|CHECKPOINT")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    args = parser.parse_args()
    records = load_split(args.data, args.split)
    images = [np.asarray(ImageOps.exif_transpose(Image.open(r["file_name"])).convert("RGB")) for r in records]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "unpacked"
        shutil.unpack_archive(export(args.trained, Options(output=Path(folder))), unpacked, "zip")
        for proposals in PROPOSALS:
            for size in SIZES if proposals == PROPOSALS[0] else (480, 640, 800):
                rows.append(measure(unpacked, size, proposals, records, images))
                print(rows[-1], flush=True)
    where = machine()
    title = f"{args.trained.stem}, {args.split} split of {args.data.name}\n{describe(where)}"
    text = f"{title}\n\n{table(rows)}"
    save(args.output, "bench_options", {"machine": where, "split": args.split, "rows": rows}, text)
    chart(args.output / "bench_options.png", rows, title)
    print(f"\n{text}\n\n{args.output}")
    return 0


def measure(
    archive: Path, size: int, proposals: int, records: list[dict[str, Any]], images: list[np.ndarray]
) -> dict[str, Any]:
    """AP and latency of one setting."""
    path = archive / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["INPUT"] |= {"MIN_SIZE_TEST": size, "MAX_SIZE_TEST": round(size * 5 / 3)}
    config["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"] = proposals
    path.write_text(yaml.safe_dump(config))
    predictor = Predictor.load(archive)
    results: list[dict[str, Any]] = []
    seconds = []
    for record, image in zip(records, images, strict=True):
        predictor.predict([image])  # OpenVINO compiles for each new shape
        start = time.perf_counter()
        (found,) = predictor.predict([image])
        seconds.append(time.perf_counter() - start)
        own = coco_results(found, Asked(), *image.shape[:2])[:100]
        results += [{**result, "image_id": record["image_id"]} for result in own]
    ap = summarize(match(ground_truth(records, predictor.classes), results, "segm")[0])
    return {
        "short side": size,
        "proposals": proposals,
        "latency ms": statistics.median(seconds) * 1e3,
        "segm AP": ap["AP"],
        "segm AP50": ap["AP50"],
    }


def chart(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """AP against latency; a line per number of proposals, a point per short side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for proposals in PROPOSALS:
        chosen = [row for row in rows if row["proposals"] == proposals]
        axis.plot(
            [row["latency ms"] for row in chosen],
            [row["segm AP"] for row in chosen],
            "o-",
            label=f"{proposals} proposals",
        )
        for row in chosen:
            axis.annotate(
                f"{row['short side']}",
                (row["latency ms"], row["segm AP"]),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axis.set(xlabel="ms a photo (beside each point: short side in pixels)", ylabel="segm AP", title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
