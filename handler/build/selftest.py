"""Load an unpacked archive as a server would and predict one drawn image: ``python selftest.py FOLDER``.

The last step of ``maskrcnn export``, run in a process whose ``sys.path`` holds the unpacked archive and the installed
packages only, so that what is tried is the archive's own code. Prints one JSON line: what was loaded and how many
objects were found.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def selftest(folder: Path) -> dict[str, object]:
    """Predict a disc with the archive's settings; return engine, precision and the number of instances.

    Raises:
        HandlerError: the archive cannot be loaded.
        ValueError: it answers with an error.
    """
    from handler.service import Request, Service

    service = Service.load(folder, device="cpu")
    y, x = np.mgrid[0:240, 0:320]
    disc = (x - 160) ** 2 + (y - 110) ** 2 < 70**2
    image = np.where(disc[..., None], (200, 30, 40), (90, 150, 220)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    (answer,) = service.answer([Request({"image": buffer.getvalue()}, id="selftest")])
    if answer.status != 200:
        raise ValueError(f"the archive answers a drawn image with {answer.reason}")
    running = {"engine": service.predictor.engine, "precision": service.predictor.precision}
    return {**running, "instances": answer.instances}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(selftest(Path(sys.argv[1]))))
