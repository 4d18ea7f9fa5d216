"""One version in processes of its own: LitServe around the service in the archive.

``python -m serve_config.litserve.worker FOLDER SOCKET WORKERS`` answers ``POST /predict`` on a Unix socket until it is
killed. If one of its workers dies, all of it ends, and the frontend starts it again.
"""

# LitServe reads the annotations of decode_request: no `from __future__ import annotations` here

import json
import logging
import math
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import litserve
import yaml
from fastapi import Depends, Request, Response
from litserve.connector import check_cuda_with_nvidia_smi
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

from serve_config.litserve import BODIES, DESCRIPTION, SAMPLES, WORKERS

logger = logging.getLogger(__name__)

SECONDS_TO_SEND = 1.0
"""How long a worker whose GPU has failed still lives, for its last answers to leave."""


class Call(NamedTuple):
    """A request as the frontend passes it on."""

    content_type: str
    id: str


async def receive(request: Request) -> Call:
    """Read the request's headers; its body waits in the frontend."""
    return Call(request.headers.get("Content-Type", ""), request.headers.get("X-Request-ID", ""))


class MaskRCNN(litserve.LitAPI):
    """The archive's :class:`handler.service.Service` as LitServe wants it.

    Args:
        folder: the unpacked archive.
        config: its ``model-config.yaml``.
        workers: how many share this machine's cores.
    """

    def __init__(self, folder: Path, config: dict[str, Any], workers: int) -> None:
        super().__init__(int(config.get("batchSize") or 1), float(config.get("maxBatchDelay") or 0) / 1000)
        self.folder, self.config, self.workers = folder, config, workers

    def setup(self, device: str) -> None:
        """Load the archive, with the packages that it brings."""
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
        sys.path.insert(0, str(self.folder))
        from handler.model.cores import usable_cores
        from handler.service import Service

        threads = max(1, usable_cores() // self.workers)
        self.service = Service.load(self.folder, self.config, device=device, threads=threads)
        self.service.warm_up()
        (self.folder / DESCRIPTION).write_bytes(self.service.describe().body)

    def decode_request(self, request: Annotated[Call, Depends(receive)]) -> Call:
        return request

    def predict(self, calls: Call | list[Call]) -> Any:
        """Answer a batch, or a single call."""
        from handler.api.metrics import batch_samples
        from handler.service import Request as Prediction

        batch = [calls] if isinstance(calls, Call) else calls
        start = time.perf_counter()
        requests = [
            Prediction(parts(self._body(call), call.content_type), call.content_type, call.id)
            for call in batch
        ]
        answers = self.service.answer(requests)
        version = str(self.service.predictor.card["version"])
        samples = batch_samples(answers, time.perf_counter() - start, version)
        counted = [json.dumps([[sample.name, sample.value, sample.labels] for sample in samples])]
        outputs = list(zip(answers, counted + [""] * (len(batch) - 1), strict=True))
        if self.service.broken:
            logger.critical("the GPU failed: this worker ends, and another starts")
            threading.Timer(SECONDS_TO_SEND, os._exit, (1,)).start()
        return outputs[0] if isinstance(calls, Call) else outputs

    def _body(self, call: Call) -> bytes:
        with socket.socket(socket.AF_UNIX) as frontend:
            frontend.connect(str(self.folder / BODIES))
            frontend.sendall(f"{call.id}\n".encode())
            return b"".join(iter(lambda: frontend.recv(2**20), b""))

    def encode_response(self, output: tuple[Any, str]) -> Response:
        answer, samples = output
        headers = {"Content-Type": answer.content_type} | ({SAMPLES: samples} if samples else {})
        return Response(answer.body, answer.status, headers)


def parts(body: bytes, content_type: str) -> dict[str, object]:
    """The parts of a request by name, as TorchServe gives them to a handler: a body that is no form is ``body``.

    Of parts with the same name the last one counts. A form that cannot be parsed has none.
    """
    kind, options = parse_options_header(content_type)
    if kind != "multipart/form-data" or not options.get("boundary"):
        return {"body": body}
    found: dict[str, object] = {}
    decoder = MultipartDecoder(options["boundary"].encode())
    decoder.receive_data(body)
    decoder.receive_data(None)
    name = ""
    try:
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, Field | File):
                name = event.name
            elif isinstance(event, Data):  # whole, since the decoder has the whole body
                found[name] = event.data
    except ValueError:
        return {}
    return found


def end_with_a_worker(server: litserve.LitServer, folder: Path) -> None:
    """Wait until one of the workers dies, and end the whole process group: LitServe's answers would never come."""
    while not (workers := list(getattr(server, "inference_workers", ()))):
        time.sleep(0.05)
    (folder / WORKERS).write_text(json.dumps([worker.pid for worker in workers]))
    multiprocessing.connection.wait([worker.sentinel for worker in workers])
    os.killpg(0, signal.SIGKILL)


def main(folder: Path, path: str, workers: int) -> None:
    """Serve an unpacked archive."""
    written = folder / "model-config.yaml"
    config = yaml.safe_load(written.read_text(encoding="utf-8")) if written.exists() else {}
    gpus = 0 if config.get("deviceType") == "cpu" else check_cuda_with_nvidia_smi()
    devices = max(1, min(gpus, workers))
    server = litserve.LitServer(
        MaskRCNN(folder, config, workers),
        accelerator="cuda" if gpus else "cpu",
        devices=devices,
        workers_per_device=math.ceil(workers / devices),
        timeout=False,
        disable_openapi_url=True,
    )
    threading.Thread(target=end_with_a_worker, args=(server, folder), daemon=True).start()
    options = {"num_api_servers": 1, "api_server_worker_type": "thread", "generate_client_file": False}
    try:
        server.run(uds=path, log_level="warning", **options)
    except RuntimeError as error:  # a worker did not start: its own traceback is in the log
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
