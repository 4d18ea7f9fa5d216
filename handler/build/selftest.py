"""Open an unpacked archive and predict one drawn picture: ``python -m handler.build.selftest FOLDER``.

The last step of ``finetune export``, run in a process that sees nothing but the archive and the installed
packages. Prints one JSON line: what was loaded and how many objects were found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from handler.model.predictor import Predictor


def selftest(folder: Path) -> dict[str, object]:
    """Load the archive as a server would and predict; return what ran."""
    predictor = Predictor.load(folder, device="cpu")
    y, x = np.mgrid[0:240, 0:320]
    disc = (x - 160) ** 2 + (y - 110) ** 2 < 70**2
    picture = np.where(disc[..., None], (200, 30, 40), (90, 150, 220)).astype(np.uint8)
    (found,) = predictor.predict([picture])
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.masks).all()):
        raise ValueError("the model answers with numbers that are not finite")
    return {"engine": predictor.engine, "precision": predictor.precision, "instances": len(found.scores)}


if __name__ == "__main__":
    print(json.dumps(selftest(Path(sys.argv[1]))))
