"""Send one image to ``/predictions/maskrcnn`` and show the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve_config.errors import ServeError
from serve_config.models.client import Client, Refused
from serve_config.models.management import model_path, versions

PNG_OUTPUTS = ("overlay", "splash", "labels")


def ask(client: Client, image: Path, version: str | None, options: dict[str, str], timeout: float) -> bytes:
    """The answer's body, JSON or PNG. Raises ServeError if the file cannot be read or the request is refused."""
    try:
        data = image.read_bytes()
    except OSError as error:
        raise ServeError(f"{image} cannot be read ({error.strerror})") from error
    body: dict[str, Any] = {"data": data}
    if options:  # the query string never reaches a TorchServe handler
        body = {"files": {"image": (image.name, data)}, "data": options}
    response = client.request(
        "inference", "POST", model_path(version, "/predictions"), timeout=timeout, **body
    )
    if response.status_code == 404:
        names = ", ".join(entry.name for entry in versions(client)) or "nothing; `register` an archive first"
        raise ServeError(f"there is no version {version or 'to answer'} (registered: {names})")
    if not response.ok:
        raise Refused(response)
    return response.content


def shorten(value: Any, limit: int = 40) -> Any:
    """Cut long strings (RLE counts, base64) in JSON that a person reads.

    >>> shorten({"counts": "x" * 50})
    {'counts': 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (50 characters)'}
    """
    if isinstance(value, dict):
        return {key: item if key == "weights_sha256" else shorten(item, limit) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten(item, limit) for item in value]
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]}… ({len(value)} characters)"
    return value


def show(body: bytes, raw: bool) -> str:
    """The text to print for a JSON answer."""
    return body.decode() if raw else json.dumps(shorten(json.loads(body)), indent=2, ensure_ascii=False)


def write(target: Path, body: bytes) -> None:
    """Raises ServeError."""
    try:
        target.write_bytes(body)
    except OSError as error:
        raise ServeError(f"{target} cannot be written ({error.strerror})") from error
