"""What the web client adds to TorchServe's own time, for a photo of 2 megapixels.

    python -m tests.benchmarks.web_client

The same request goes, in turn, straight to a server that answers at once and to the web client before it; the
difference of the medians is what the web client costs.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import requests
from PIL import Image, ImageFilter

REPLY = json.dumps({"instances": [{"mask": {"counts": "x" * 800}} for _ in range(100)]}).encode()
ROUNDS = 200


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


def milliseconds(session: requests.Session, url: str, data: bytes) -> float:
    start = time.perf_counter()
    response = session.post(url, files={"image": ("photo.jpg", data)}, timeout=10)
    elapsed = 1000 * (time.perf_counter() - start)
    assert response.content == REPLY, response.text[:300]
    return elapsed


def main() -> None:
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
            urls = {"direct": f"{direct}/predictions/maskrcnn", "web_client": f"{client}api/predict"}
            times: dict[str, list[float]] = {name: [] for name in urls}
            for _ in range(ROUNDS):
                for name, url in urls.items():
                    times[name].append(milliseconds(session, url, data))
            process.terminate()
    medians = {name: statistics.median(values[10:]) for name, values in times.items()}
    added = medians["web_client"] - medians["direct"]
    print(f"photo of 1632 × 1224 pixels, {len(data) / 1e6:.2f} MB; median of {ROUNDS - 10} requests each")
    print(f"straight to the server: {medians['direct']:.1f} ms")
    print(f"by way of the web client: {medians['web_client']:.1f} ms")
    print(f"the web client adds {added:.1f} ms")


if __name__ == "__main__":
    main()
