"""What people do today: ``DefaultPredictor`` behind Flask, and behind LitServe. Servers for the benchmark.

    python -m tests.benchmarks.baselines flask|litserve RUN PORT

Both run on the GPU if there is one, and answer POST /predict (the picture as body; for LitServe as JSON, in base64)
with boxes, scores and COCO RLEs of masks that Detectron2 pasted into full-size arrays.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from tests.benchmarks.bench_predictor import default_predictor
from tests.toy_models import quiet_detectron2

SCORE_THRESHOLD = 0.5  # as ours


def answerer(run: Path) -> Callable[[bytes], dict[str, Any]]:
    """Return the function from a picture's bytes to the answer."""
    with quiet_detectron2():
        predictor = default_predictor(run, "cuda" if torch.cuda.is_available() else "cpu")
    quiet_once = threading.Lock()

    def answer(data: bytes) -> dict[str, Any]:
        rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        with quiet_once, quiet_detectron2():  # one at a time: two at once are no faster on the same cores
            found = predictor(rgb[:, :, ::-1])["instances"].to("cpu")
        found = found[found.scores >= SCORE_THRESHOLD]
        masks = coco_mask.encode(
            np.asfortranarray(found.pred_masks.numpy().transpose(1, 2, 0).astype(np.uint8))
        )
        return {
            "boxes": found.pred_boxes.tensor.tolist(),
            "scores": found.scores.tolist(),
            "masks": [{"size": m["size"], "counts": m["counts"].decode()} for m in masks],
        }

    return answer


def flask_server(run: Path, port: int) -> None:
    """Flask's own server, one process."""
    import flask

    app = flask.Flask(__name__)
    answer = answerer(run)
    app.add_url_rule("/predict", "predict", lambda: answer(flask.request.get_data()), methods=["POST"])
    app.add_url_rule("/health", "health", lambda: "ok")
    app.run("127.0.0.1", port, threaded=True)


def litserve_server(run: Path, port: int) -> None:
    """LitServe, one worker."""
    import litserve

    from tests.benchmarks.litserve_api import Api

    server = litserve.LitServer(Api(run), accelerator="auto", workers_per_device=1, timeout=300)
    server.run(
        host="127.0.0.1", port=port, generate_client_file=False, num_api_servers=1, log_level="warning"
    )


if __name__ == "__main__":
    kind, folder, number = sys.argv[1:]
    {"flask": flask_server, "litserve": litserve_server}[kind](Path(folder), int(number))
