"""What the web client adds to TorchServe's own time, for a photo of 2 megapixels.

The same request goes, in turn, straight to a server that answers at once and to the web client before it; the
difference of the medians is what the web client costs.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import requests
from PIL import Image, ImageFilter

from tests.benchmarks.measuring import alternate, summary

REPLY = json.dumps({"instances": [{"mask": {"counts": "x" * 800}} for _ in range(100)]}).encode()


class Instant(BaseHTTPRequestHandler):
    """Reads the request and answers with as much as 100 masks weigh."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(REPLY)))
        self.end_headers()
        self.wfile.write(REPLY)

    def log_message(self, *args: object) -> None:
        pass


def photo() -> bytes:
    """1632 × 1224 pixels of soft noise, as JPEG of about the size of a phone's photo."""
    noise = np.random.default_rng(0).integers(0, 255, (1224, 1632, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5)).save(out, "JPEG", quality=90)
    return out.getvalue()


def ask(session: requests.Session, url: str, data: bytes) -> None:
    response = session.post(url, files={"image": ("photo.jpg", data)}, timeout=10)
    assert response.content == REPLY, response.text[:300]


def rows_of() -> list[dict[str, object]]:
    """A row for each way to the answer."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Instant)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    direct = f"http://127.0.0.1:{server.server_address[1]}"
    data = photo()
    flags = ["--port", "0", "--inference-url", direct, "--management-url", direct, "--rate-limit", "off"]
    with tempfile.TemporaryDirectory() as folder:
        flags += ["--key-file", str(Path(folder) / "key_file.json")]
        command = [sys.executable, "-m", "web_client", *flags]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            client = process.stdout.readline().strip()
            session = requests.Session()
            session.trust_env = False
            urls = {
                "straight to the server": f"{direct}/predictions/maskrcnn",
                "by way of the web client": f"{client}api/predict",
            }
            calls = {name: partial(ask, session, url, data) for name, url in urls.items()}
            times = alternate(calls, repeats=100, warm_up=10)
            process.terminate()
    return [{"way": name, **summary(each)} for name, each in times.items()]
