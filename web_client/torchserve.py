"""TorchServe as the web client sees it: three HTTP addresses and a key file.

Whatever goes wrong on that side becomes a :class:`~web_client.errors.Refused` in plain words. A key that has
expired is renewed and never blamed on the picture (TorchServe answers it with a 400, as if it were).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from web_client.errors import Refused
from web_client.keys import KeyFile
from web_client.uploads import Picture

log = logging.getLogger("web_client")

SHORT = (2.0, 3.0)  # seconds to connect and to answer, for everything but predictions


@dataclass
class TorchServe:
    """One per app; used by all its threads at once."""

    inference_url: str
    management_url: str
    keys: KeyFile
    model: str = "maskrcnn"
    timeout: float = 60.0
    connections: int = 32
    _cards: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    _renewal: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.session = requests.Session()
        # a proxy from the environment has no business between two local servers
        self.session.trust_env = False
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=self.connections))

    def predict(
        self, picture: Picture, version: str | None, options: Mapping[str, str], request_id: str
    ) -> requests.Response:
        """Contract 2: the picture and its options as multipart. Answers TorchServe's 200 or raises
        Refused."""
        path = f"/predictions/{quote(self.model, safe='')}"
        if version:
            path += "/" + quote(version, safe="")
        response = self._call(
            "inference",
            "POST",
            path,
            files={"image": (picture.name, picture.data, "application/octet-stream")},
            data=dict(options),
            headers={"X-Request-ID": request_id},
            timeout=(SHORT[0], self.timeout),
        )
        if response.status_code != 200:
            raise refusal(response, version)
        return response

    def versions(self) -> list[dict[str, Any]]:
        """The registered versions, the default one marked: ``[{"version", "ready", "default", "loaded"},
        …]``."""
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
        """The versions that are ready, each with its card: what the model says of itself, or an empty
        dict."""
        return [
            {"version": entry["version"], "default": entry["default"], "card": self._card(entry)}
            for entry in self.versions()
            if entry["ready"]
        ]

    def _card(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What ``describe_handle`` answers. A worker has to answer it, in turn, so ask once per loaded
        model."""
        key = (entry["version"], entry["url"], entry["loaded"])
        if key not in self._cards:
            try:
                described = self._describe(f"/{quote(entry['version'], safe='')}?customized=true")
                card = described[0].get("customizedMetadata") or {}
                self._cards[key] = json.loads(card) if isinstance(card, str) else card
            except (Refused, ValueError, IndexError):
                return {}  # it is busy or gone: the list is right without the card
        return self._cards[key]

    def _describe(self, rest: str) -> list[dict[str, Any]]:
        response = self._call(
            "management", "GET", f"/models/{quote(self.model, safe='')}{rest}", timeout=SHORT
        )
        if response.status_code == 404:
            return []
        if response.status_code != 200:
            raise refusal(response, None)
        try:
            described = response.json()
        except ValueError:
            raise _odd_answer() from None
        return described if isinstance(described, list) else []

    def _call(self, kind: str, method: str, path: str, **kwargs: Any) -> requests.Response:
        """One request with the key of that kind; once more if the key was stale. Raises Refused if nobody
        answers."""
        if self.keys.expired(kind):
            self._renew(kind, self.keys.key(kind))
        key = self.keys.key(kind)
        response = self._send(kind, method, path, key, **kwargs)
        if _key_refused(response):
            self._renew(kind, key)
            response = self._send(kind, method, path, self.keys.key(kind), **kwargs)
            if _key_refused(response):
                log.error("TorchServe refuses the %s key of the key file, and it could not be renewed", kind)
                message = (
                    "The service lost its access to the model. Your picture is fine; tell whoever runs it."
                )
                raise Refused(503, "service_key", message)
        return response

    def _send(
        self,
        kind: str,
        method: str,
        path: str,
        key: str | None,
        headers: Mapping[str, str] = {},
        **kwargs: Any,
    ) -> requests.Response:
        """A connection that breaks is tried once more: predictions and descriptions change nothing.

        A timeout is not: the server is at work, and asking twice would only give it more of it.
        """
        url = (self.inference_url if kind == "inference" else self.management_url) + path
        all_headers = {**headers, "Authorization": f"Bearer {key}"} if key else dict(headers)
        for attempt in (1, 2):
            try:
                return self.session.request(method, url, headers=all_headers, allow_redirects=False, **kwargs)
            except requests.Timeout:
                log.warning("TorchServe's %s address did not answer in time", kind)
                message = (
                    "The model took too long to answer. Wait a moment and try again, or send a "
                    "smaller picture."
                )
                raise Refused(504, "model_slow", message, retry_after=10) from None
            except requests.RequestException as error:
                if attempt == 2:
                    log.warning("TorchServe's %s address cannot be reached: %s", kind, type(error).__name__)
                    message = (
                        "The model's server is not running or is restarting. Try again in half a minute."
                    )
                    raise Refused(503, "model_unreachable", message, retry_after=30) from None
                time.sleep(0.2)
        raise AssertionError("unreachable")

    def _renew(self, kind: str, used: str | None) -> None:
        """Let TorchServe write a new key of that kind, unless another thread has just done so."""
        with self._renewal:
            if self.keys.key(kind) != used:
                return
            api_key = self.keys.key("API")
            if api_key is None:
                return
            log.info("renewing TorchServe's %s key", kind)
            # The answer has no body: the new key is in the key file.
            response = self._send(
                "management", "GET", "/token", api_key, params={"type": kind}, timeout=SHORT
            )
            if response.status_code != 200:
                log.warning("TorchServe did not renew the %s key: %s", kind, response.status_code)


def refusal(response: requests.Response, version: str | None) -> Refused:
    """TorchServe's own failures, and the handler's refusals, as an error that may be shown."""
    status = response.status_code
    body = _json(response)
    error = body.get("error")
    # the handler's own words: pass them on
    if isinstance(error, dict) and (400 <= status < 500 or status == 503):
        message = str(error.get("message") or "The model refused this picture.")
        retry_after = 10 if status == 503 else None
        return Refused(status, str(error.get("code") or "refused"), message, error.get("field"), retry_after)
    kind = str(body.get("type", ""))
    log.warning("TorchServe answered %s %s", status, kind)
    if status == 404 and kind == "ModelVersionNotFoundException":
        name = f"“{version}”" if version else "that was asked for"
        message = f"The model version {name} is not loaded any more. Choose another one."
        return Refused(404, "unknown_version", message, "version")
    if status == 404:
        return Refused(503, "no_model", "No model is loaded yet. Try again in a minute.", retry_after=60)
    if status == 413:
        message = "This picture is too large for the model's server. Make it smaller and send it again."
        return Refused(413, "image_too_large", message, "image")
    if status == 507 and body.get("message") == "Worker died.":  # and TorchServe is starting another one
        message = (
            "The model stopped while it worked on this picture and is being restarted. "
            "Try again in a few seconds."
        )
        return Refused(503, "model_restarting", message, retry_after=10)
    if status == 507:
        message = "The model ran out of memory on this picture. Try a smaller one, or try again in a minute."
        return Refused(503, "out_of_memory", message, retry_after=60)
    if status == 503:
        message = "The model is busy or still starting. Your picture is fine: try again in a few seconds."
        return Refused(503, "model_busy", message, retry_after=5)
    if status >= 500:
        message = "The model failed on this picture. Try again; if it fails again, try another picture."
        return Refused(502, "model_failed", message, retry_after=5)
    return _odd_answer()


def _odd_answer() -> Refused:
    message = "The model's server answered something we do not understand. Try again in a minute."
    return Refused(502, "odd_answer", message, retry_after=60)


def _key_refused(response: requests.Response) -> bool:
    return response.status_code == 400 and _json(response).get("type") == "InvalidKeyException"


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
