"""Talk HTTP to TorchServe, with the keys of its key file."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import requests
from urllib3.exceptions import MaxRetryError, NewConnectionError

from serve_config.errors import ServeError
from serve_config.server.properties import LOOPBACK
from serve_config.server.state import Home, State

Kind = Literal["inference", "management"]


class Client:
    """Talks to the TorchServe of one state folder.

    Keys expire after an hour. A key is renewed shortly before that, or when TorchServe refuses it; not earlier,
    because renewing invalidates the former key at once.
    """

    def __init__(self, home: Home, ports: dict[str, int] | None = None) -> None:
        self.home = home
        self.ports = ports or State.load(home).ports

    def url(self, kind: Kind | Literal["metrics"], path: str) -> str:
        if kind not in self.ports:
            raise ServeError(not_running(self.home))
        return f"http://{LOOPBACK}:{self.ports[kind]}{path}"

    def request(
        self, kind: Kind, method: str, path: str, *, timeout: float = 60, **options: Any
    ) -> requests.Response:
        """The answer, whatever its status; ``timeout`` in seconds. Raises ServeError if there is none."""
        key, expires = self.read_key(kind)
        if expires - datetime.now(UTC) < timedelta(seconds=30):
            key = self.renew_key(kind)
        response = self._send(method, self.url(kind, path), key, timeout, **options)
        if response.status_code == 400 and b"InvalidKeyException" in response.content:
            newer, _ = self.read_key(kind)  # another program may have renewed it
            key = newer if newer != key else self.renew_key(kind)
            response = self._send(method, self.url(kind, path), key, timeout, **options)
        return response

    def json(self, kind: Kind, method: str, path: str, *, timeout: float = 60, **options: Any) -> Any:
        """The JSON of a successful answer. Raises Refused for any other, ServeError if there is none."""
        response = self.request(kind, method, path, timeout=timeout, **options)
        if not response.ok:
            raise Refused(response)
        try:
            return response.json()
        except ValueError as error:
            raise ServeError(
                f"TorchServe's answer to {method} {path} is not JSON: look at its logs in {self.home.logs}"
            ) from error

    def metrics(self) -> str:
        """The Prometheus page, which needs no key. Raises ServeError."""
        response = self._send("GET", self.url("metrics", "/metrics"), "", 10)
        if not response.ok:
            raise Refused(response)
        return response.text

    def read_key(self, kind: Literal["inference", "management", "API"]) -> tuple[str, datetime]:
        """A key and when it expires (UTC). Raises ServeError.

        TorchServe rewrites the file in place, so a half-written one is read again.
        """
        for _ in range(20):
            try:
                entry = json.loads(self.home.key_file.read_text())[kind]
                expires = entry.get("expiration time")
                return entry["key"], datetime.fromisoformat(expires or "9999-12-31T00:00Z")
            except FileNotFoundError as error:
                raise ServeError(not_running(self.home)) from error
            except OSError as error:
                raise ServeError(
                    f"{self.home.key_file} cannot be read ({error.strerror}): run this as the user who started "
                    "TorchServe"
                ) from error
            except (ValueError, KeyError, TypeError):
                time.sleep(0.05)
        raise ServeError(f"{self.home.key_file} is damaged: stop TorchServe and start it again")

    def renew_key(self, kind: Kind) -> str:
        key, _ = self.read_key("API")
        response = self._send("GET", self.url("management", f"/token?type={kind}"), key, 10)
        if not response.ok:
            raise ServeError(
                f"TorchServe refuses the keys in {self.home.key_file}, which are from an earlier start: "
                "stop it and start it again"
            )
        return self.read_key(kind)[0]

    def _send(self, method: str, url: str, key: str, timeout: float, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy from the environment between us and 127.0.0.1
                return session.request(method, url, headers=headers, timeout=(5, timeout), **options)
        except requests.Timeout as error:
            message = f"TorchServe did not answer within {timeout:.0f} s: look at `maskrcnn serve status`"
            raise ServeError(message) from error
        except requests.RequestException as error:
            cause = error.args[0] if error.args else None
            if isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError):
                raise ServeError(not_running(self.home)) from error
            raise ServeError(
                "TorchServe closed the connection: it has ended, or the request is longer than the "
                f"max_request_size in {self.home.config}"
            ) from error


class Refused(ServeError):
    """TorchServe answered with an error: ``status`` over HTTP."""

    def __init__(self, response: requests.Response) -> None:
        self.status, message = response.status_code, response.text
        with contextlib.suppress(ValueError, AttributeError):
            body = response.json()
            message = str((body.get("error") or body).get("message", message))  # the handler's are nested
        reason = " ".join(message.split())[:500] or "no reason given"
        super().__init__(f"the service refused ({self.status}): {reason}")


def not_running(home: Home) -> str:
    """The message for a state folder whose TorchServe does not answer."""
    return f"no TorchServe answers for {home.path}: start it with `maskrcnn serve start`"
