"""TorchServe's client: predictions and the registered versions.

TorchServe's failures become an :class:`~web_client.errors.ApiError`. An expired key is renewed and never blamed on
the picture, although TorchServe answers it with a 400.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from web_client.api.uploads import Picture
from web_client.backend.keys import KeyFile
from web_client.errors import ApiError, no_model, unexpected_answer

log = logging.getLogger("web_client")

CONNECT_SECONDS = 2.0
DESCRIBE_SECONDS = 3.0


class TorchServe:
    """One per app; its methods may be called from several threads at once.

    Args:
        settings: ``INFERENCE_URL``, ``MANAGEMENT_URL``, ``KEY_FILE``, ``MODEL_NAME``, ``TIMEOUT`` (seconds for a whole
            prediction, second attempts included) and ``THREADS`` (connections to keep open).
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.urls = {
            kind: settings[f"{kind.upper()}_URL"].rstrip("/") for kind in ("inference", "management")
        }
        self.keys = KeyFile(Path(settings["KEY_FILE"]))
        self.model = quote(settings["MODEL_NAME"], safe="")
        self.timeout = settings["TIMEOUT"]
        self._cards: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._renewing = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between two local servers
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=settings["THREADS"]))

    def predict(
        self, picture: Picture, version: str | None, options: Mapping[str, str], request_id: str
    ) -> requests.Response:
        """Send a picture with Contract 2's options; return TorchServe's 200 response or raise ApiError.

        A request that was lost because its worker died is sent once more: a prediction changes nothing, and
        TorchServe restarts the worker. One that died late probably ran into TorchServe's own time limit, and
        would again.
        """
        path = f"/predictions/{self.model}" + (f"/{quote(version, safe='')}" if version else "")
        sent: dict[str, Any] = {
            "files": {"image": (picture.name, picture.data, "application/octet-stream")},
            "data": dict(options),
            "headers": {"X-Request-ID": request_id},
        }
        start = time.monotonic()
        response = self._call("inference", "POST", path, seconds=self.timeout, **sent)
        left = self.timeout - (time.monotonic() - start)
        if _worker_died(response) and left > self.timeout / 2:
            log.warning("%s the worker died with this request; sending it once more", request_id)
            response = self._call("inference", "POST", path, seconds=left, **sent)
        if response.status_code != 200:
            raise api_error(response, version)
        return response

    def versions(self) -> list[dict[str, Any]]:
        """The registered versions: ``[{"version", "ready", "default", "loaded", "url"}, …]``."""
        described = self._describe("/all")
        default = self._describe("")[0].get("modelVersion") if described else None
        return [
            {
                "version": str(entry.get("modelVersion")),
                "ready": any(worker.get("status") == "READY" for worker in entry.get("workers", [])),
                "default": entry.get("modelVersion") == default,
                "loaded": str(next((w.get("startTime") for w in entry.get("workers", [])), "")),
                "url": str(entry.get("modelUrl")),
            }
            for entry in described
        ]

    def models(self) -> list[dict[str, Any]]:
        """The versions that are ready, each with its ``card``: the model's own description, or an empty dict."""
        return [
            {"version": entry["version"], "default": entry["default"], "card": self._card(entry)}
            for entry in self.versions()
            if entry["ready"]
        ]

    def card(self, version: str) -> dict[str, Any]:
        """The card of a version; asked for if it is not known yet, and empty if nobody answers."""
        known = [card for (name, _, _), card in self._cards.items() if name == version]
        if not known:
            with contextlib.suppress(ApiError):
                known = [each["card"] for each in self.models() if each["version"] == version]
        return known[-1] if known else {}

    def _card(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What ``describe_handle`` returns. It takes a worker's time, so it is asked once per loaded model."""
        key = (entry["version"], entry["url"], entry["loaded"])
        if key not in self._cards:
            try:
                described = self._describe(f"/{quote(entry['version'], safe='')}?customized=true")
                card = described[0].get("customizedMetadata") or {}
                self._cards[key] = json.loads(card) if isinstance(card, str) else card
            except (ApiError, ValueError, IndexError):
                return {}  # busy or just unregistered: list it without a card
        return self._cards[key]

    def _describe(self, rest: str) -> list[dict[str, Any]]:
        response = self._call("management", "GET", f"/models/{self.model}{rest}", seconds=DESCRIBE_SECONDS)
        if response.status_code == 404:
            return []
        if response.status_code != 200:
            raise api_error(response, None)
        try:
            return list(response.json())
        except (ValueError, TypeError):
            raise unexpected_answer() from None

    def _call(self, kind: str, method: str, path: str, **kwargs: Any) -> requests.Response:
        """Send a request with the key of that kind, and again if the key was stale. Raises ApiError."""
        if self.keys.expired(kind):
            self._renew(kind, self.keys.key(kind))
        key = self.keys.key(kind)
        response = self._send(kind, method, path, key, **kwargs)
        if _key_refused(response):
            self._renew(kind, key)
            response = self._send(kind, method, path, self.keys.key(kind), **kwargs)
            if _key_refused(response):
                log.error("TorchServe refuses the %s key of %s, and it was not renewed", kind, self.keys.path)
                message = "The service has lost access to the model. Your picture is fine; tell the operator."
                raise ApiError(503, "service_key", message, retry_after=30)
        return response

    def _send(
        self, kind: str, method: str, path: str, key: str | None, seconds: float, **kwargs: Any
    ) -> requests.Response:
        """Send one request, and again after a broken connection; after a timeout the server is still at work."""
        headers = kwargs.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        kwargs |= {"headers": headers, "timeout": (CONNECT_SECONDS, seconds)}
        for attempt in (1, 2):
            try:
                return self._session.request(method, self.urls[kind] + path, allow_redirects=False, **kwargs)
            except requests.Timeout:
                log.warning("TorchServe's %s address did not answer in time", kind)
                message = "The model took too long. Wait a moment and try again, or send a smaller picture."
                raise ApiError(504, "model_slow", message, retry_after=10) from None
            except requests.RequestException as error:
                if attempt == 2:
                    log.warning("TorchServe's %s address cannot be reached: %s", kind, type(error).__name__)
                    message = "The model's server is down or restarting. Try again in half a minute."
                    raise ApiError(503, "model_unreachable", message, retry_after=30) from None
                time.sleep(0.2)
        raise AssertionError("unreachable")

    def _renew(self, kind: str, used: str | None) -> None:
        """Let TorchServe write a new key of that kind, unless another thread has just done so."""
        with self._renewing:
            api_key = self.keys.key("API")
            if self.keys.key(kind) != used or api_key is None:
                return
            log.info("renewing TorchServe's %s key", kind)
            # The response has no body: the new key is in the key file.
            self._send("management", "GET", "/token", api_key, DESCRIBE_SECONDS, params={"type": kind})


# TorchServe's own errors: status → status, code, message, field, retry_after
_ERRORS: dict[int, tuple[int, str, str, str | None, int | None]] = {
    413: (413, "image_too_large", "This picture is too large for the model's server. Make it smaller and send it "
          "again.", "image", None),
    500: (502, "model_failed", "The model failed on this picture. Try again; if it fails again, try another one.",
          None, 5),
    503: (503, "model_busy", "The model is busy or still starting. Your picture is fine: try again in a few seconds.",
          None, 5),
    507: (503, "out_of_memory", "The model ran out of memory. Try a smaller picture, or try again in a minute.",
          None, 60),
}  # fmt: skip


def api_error(response: requests.Response, version: str | None) -> ApiError:
    """The error to show for a response that is not a 200, whether from the handler or TorchServe itself."""
    status, body = response.status_code, _json(response)
    error = body.get("error")
    if isinstance(error, dict) and (400 <= status < 500 or status == 503):  # the handler's own message
        message = str(error.get("message") or "The model refused this picture.")
        retry_after = 10 if status == 503 else None
        return ApiError(status, str(error.get("code") or "refused"), message, error.get("field"), retry_after)
    log.warning("TorchServe answered %s %s", status, body.get("type", ""))
    if body.get("type") == "ModelVersionNotFoundException":
        name = f"“{version}”" if version else "you asked for"
        message = f"The model version {name} is no longer loaded. Choose another one."
        return ApiError(404, "unknown_version", message, "version")
    if _worker_died(response):
        message = (
            "The model stopped while it worked on this picture and is restarting. Try again in a few seconds."
        )
        return ApiError(503, "model_restarting", message, retry_after=10)
    if status == 404:
        return no_model()
    if status in _ERRORS or status > 500:
        return ApiError(*_ERRORS.get(status, _ERRORS[500]))
    return unexpected_answer()


def _worker_died(response: requests.Response) -> bool:
    """Whether the request was lost with its worker.

    TorchServe 0.12 uses 500, 503 and 507 for this. Its "Prediction failed" (the handler raised an exception) looks
    alike but would happen again; the handler's own errors have another shape.
    """
    body = _json(response) if response.status_code in (500, 503, 507) else {}
    return body.get("type") == "InternalServerException" and body.get("message") != "Prediction failed"


def _key_refused(response: requests.Response) -> bool:
    return response.status_code == 400 and _json(response).get("type") == "InvalidKeyException"


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
