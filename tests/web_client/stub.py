"""A stand-in for TorchServe: real HTTP, Contract 2's answers, and the failures of the real one.

It "finds" pixels of saturated color, so each answer belongs to the very picture that was sent, and a test notices
one that reaches somebody else.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email import policy
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from pycocotools import mask as coco_mask

from handler.api.errors import RequestError
from handler.api.options import FormText, parse_options

VERSIONS = {"mobilenetv2_fpn": 62.1, "resnet50_fpn": 77.6}
INVALID_KEY = {
    "code": 400,
    "type": "InvalidKeyException",
    "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
}


class Stub:
    """The state of the stub. ``mode`` makes predictions fail, ``next_mode`` only the next one; ``requests``
    records them."""

    def __init__(self, folder: Path) -> None:
        self.key_file = folder / "key_file.json"
        self.keys = {"management": "mgmt-0", "inference": "infer-0", "API": "api-0"}
        self.renewals = 0
        self.mode = "ok"
        self.next_mode: str | None = None
        self.delay = 0.0
        self.versions = dict(VERSIONS)
        self.thresholds: dict[str, float] = {}  # version → its operating point, where it is not 0.5
        self.requests: list[dict[str, Any]] = []
        self.described = 0
        self.answers: dict[bytes, list[dict[str, Any]]] = {}  # file bytes → instances, where they are known
        self.write_keys()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def write_keys(self, minutes: float = 60) -> None:
        """Write the key file as TorchServe does (Java's Instant, nanoseconds)."""
        until = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        content: dict[str, dict[str, str]] = {"API": {"key": self.keys["API"]}}
        for kind in ("management", "inference"):
            content[kind] = {"key": self.keys[kind], "expiration time": until}
        temporary = self.key_file.with_suffix(".new")
        temporary.write_text(json.dumps(content, indent=2))
        temporary.rename(self.key_file)

    def renew(self, kind: str) -> None:
        self.renewals += 1
        self.keys[kind] = f"{kind}-{self.renewals}"
        self.write_keys()

    def expire_keys(self) -> None:
        """The server forgets its keys; the file still has the old ones and does not call them expired."""
        self.keys |= {"management": "mgmt-new", "inference": "infer-new"}


@contextmanager
def running_stub(folder: Path) -> Iterator[Stub]:
    stub = Stub(folder)
    thread = threading.Thread(target=stub.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()
        thread.join()


def balloon_picture(
    width: int = 320,
    height: int = 240,
    balloons: list[tuple[int, int, int]] | None = None,
    kind: str = "PNG",
    **save: Any,
) -> bytes:
    """A gray picture with discs of pure colour at (x, y, radius): what the stub finds."""
    image = Image.new("RGB", (width, height), (120, 120, 120))
    draw = ImageDraw.Draw(image)
    places = [(width // 3, height // 2, height // 5)] if balloons is None else balloons
    for index, (x, y, radius) in enumerate(places):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 10 * (index % 20), 0))
    out = io.BytesIO()
    image.save(out, kind, **save)
    return out.getvalue()


def find_balloons(data: bytes) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Size (width, height) and Contract 2's instances: one per shade of red, by falling score."""
    with Image.open(io.BytesIO(data)) as opened:
        rgb = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    red = (rgb[..., 0] > 200) & (rgb[..., 2] < 60)
    instances = []
    for index in range(20):
        mask = red & (abs(rgb[..., 1] - 10 * index) < 5)
        if mask.sum() > 20:
            instances.append(instance(mask, 0.95 - 0.11 * len(instances), len(instances)))
    return (rgb.shape[1], rgb.shape[0]), instances


def instance(mask: np.ndarray, score: float, number: int) -> dict[str, Any]:
    """One object of Contract 2. ``mask``: (H, W) bool."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return {
        "id": number,
        "class_id": 0,
        "class_name": "balloon",
        "score": round(max(0.06, score), 4),
        "box": [x, y, x + width, y + height],
        "area": int(mask.sum()),
        "mask": {"size": list(mask.shape), "counts": rle["counts"].decode()},
    }


def reply_for(version: str, size: tuple[int, int], instances: list[dict[str, Any]]) -> dict[str, Any]:
    rles = [entry["mask"] for entry in instances]
    covered = int(coco_mask.area(coco_mask.merge(rles))) if rles else 0
    return {
        "model": {"name": "maskrcnn", "version": version, "weights_sha256": "ab" * 32},
        "image": {"width": size[0], "height": size[1]},
        "instances": instances,
        "mask_fraction": covered / (size[0] * size[1]),
        "timings_ms": {"decode": 4.1, "inference": 201.5, "postprocess": 2.2},
    }


def with_polygon(entry: dict[str, Any]) -> dict[str, Any]:
    """The instance with the outline of its box for a mask."""
    x1, y1, x2, y2 = entry["box"]
    polygons = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return entry | {"mask": {"size": entry["mask"]["size"], "polygons": polygons}}


def _handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: Any, kind: str = "application/json") -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if kind:
                self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # a test's client may have gone
                self.wfile.write(data)

        def allowed(self, kind: str) -> bool:
            if self.headers.get("Authorization") == f"Bearer {stub.keys[kind]}":
                return True
            self.answer(400, INVALID_KEY)
            return False

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/token":
                if stub.mode != "no_renewal" and self.allowed("API"):
                    stub.renew(query.removeprefix("type="))
                    self.answer(200, b"\n\n")
                elif stub.mode == "no_renewal":
                    self.answer(400, INVALID_KEY)
            elif path.startswith("/models/maskrcnn") and self.allowed("management"):
                self.describe(path.removeprefix("/models/maskrcnn").strip("/"), "customized=true" in query)
            elif not path.startswith("/models/maskrcnn"):
                self.answer(404, {"code": 404, "type": "ResourceNotFoundException", "message": "no"})

        def describe(self, version: str, customized: bool) -> None:
            if not stub.versions:
                self.answer(*_torchserve(404, "ModelNotFoundException", "Model not found: maskrcnn"))
                return
            names = list(stub.versions) if version == "all" else [version or next(iter(stub.versions))]
            stub.described += customized
            ready = [{"status": "READY", "startTime": "2026-11-23T09:10:20.234Z"}]
            workers = [] if stub.mode == "no_worker" else ready
            entries: list[dict[str, Any]] = [
                {"modelVersion": name, "modelUrl": f"maskrcnn_{name}.mar", "workers": workers}
                for name in names
            ]
            if customized:
                card = {
                    "model": {"version": names[0], "backbone": names[0].partition(".")[0]},
                    "classes": ["balloon"],
                    "limits": {"max_image_bytes": 19_000_000, "max_image_pixels": 24_000_000},
                    "options": [{"name": "score_threshold", "default": stub.thresholds.get(names[0], 0.5)}],
                    "evaluation": {"split": "test", "images": 13, "segm": {"AP": stub.versions[names[0]]}},
                }
                entries[0]["customizedMetadata"] = card
            self.answer(200, entries)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.allowed("inference"):
                return
            form = _parts(self.headers["Content-Type"], body)
            data = form.pop("image")
            options = {name: value.decode() for name, value in form.items()}
            version = self.path.removeprefix("/predictions/maskrcnn").strip("/")
            request_id = self.headers.get("X-Request-ID")
            stub.requests.append({"version": version, "options": options, "id": request_id, "bytes": data})
            mode, stub.next_mode = stub.next_mode or stub.mode, None
            if stub.delay:
                time.sleep(stub.delay)
            if version and version not in stub.versions:
                self.answer(*_torchserve(404, "ModelVersionNotFoundException", f"{version} /srv/x"))
            elif mode in FAILURES:
                self.answer(*FAILURES[mode])
            elif refusal := _option_error(options):
                self.answer(*refusal)
            elif mode == "break":
                self.close_connection = True
                self.connection.close()
            else:
                self.predict(version or next(iter(stub.versions)), data, options)

        def predict(self, version: str, data: bytes, options: dict[str, str]) -> None:
            size, instances = find_balloons(data)
            if data in stub.answers:
                instances = stub.answers[data]
            if version != next(iter(stub.versions)):
                instances = instances[:-1]  # so that two models can be told apart
            threshold = float(options.get("score_threshold", 0.5))
            instances = [entry for entry in instances if entry["score"] >= threshold]
            if options.get("output") == "labels":
                self.answer(200, balloon_picture(*size, []), "image/png")
                return
            reply = reply_for(version, size, instances)
            if options.get("mask_format") == "polygon":
                reply["instances"] = [with_polygon(entry) for entry in instances]
            self.answer(200, reply)

    return Handler


def _torchserve(status: int, kind: str, message: str) -> tuple[int, Any, str]:
    """An error of TorchServe itself."""
    return status, {"code": status, "type": kind, "message": message}, "application/json"


def _option_error(options: dict[str, str]) -> tuple[int, Any, str] | None:
    """What the real handler answers to options that it cannot read."""
    try:
        parse_options({name: FormText(value) for name, value in options.items()}, ["balloon"])
    except RequestError as error:
        return error.status, error.body(), "application/json"
    return None


def _handler_error(status: int, code: str, message: str) -> tuple[int, Any, str]:
    """An error of our own handler."""
    return status, {"error": {"code": code, "message": message, "field": "image"}}, ""


FAILURES: dict[str, tuple[int, Any, str]] = {
    "no_worker": _torchserve(
        503, "ServiceUnavailableException", "Model has no worker to serve inference request."
    ),
    "died_500": _torchserve(500, "InternalServerException", "Worker died."),
    "died_503": _torchserve(503, "InternalServerException", "Worker died."),
    "died_507": _torchserve(507, "InternalServerException", "Worker died."),
    "prediction_failed": _torchserve(503, "InternalServerException", "Prediction failed"),
    "broken": _handler_error(500, "internal", "The model failed."),
    "no_room": _handler_error(503, "out_of_memory", "The picture does not fit now."),
    "refused": _handler_error(422, "too_many_pixels", "The picture is 9 × 9 pixels."),
    "memory": _torchserve(507, "InsufficientStorageException", "CUDA out of memory"),
    "odd": _torchserve(400, "BadRequestException", "/home/model/secret.py line 3"),
    "too_large": (413, b"", ""),
    "html": (200, b"<p>hello</p>", "text/html"),
}


def _parts(content_type: str, body: bytes) -> dict[str, bytes]:
    message = BytesParser(policy=policy.HTTP).parsebytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body
    )
    parts = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        parts[str(name)] = part.get_payload(decode=True)
    return parts
