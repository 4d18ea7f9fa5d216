"""``DefaultPredictor`` as LitServe wants it: a class that its worker process can import."""

import base64
from pathlib import Path
from typing import Any

import litserve
from fastapi import Request

from tests.benchmarks.baselines import answerer


class Api(litserve.LitAPI):
    """One picture in, boxes and RLE masks out."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run

    def setup(self, device: str) -> None:
        self.answer = answerer(self.run)

    # LitServe reads this annotation: no `from __future__ import annotations` here
    def decode_request(self, request: Request) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, data: bytes) -> dict[str, Any]:
        return self.answer(data)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output
