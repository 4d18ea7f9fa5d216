"""TorchServe's inference, management and metrics routes, in front of versions that LitServe serves.

Each route answers as TorchServe's does, errors included, so what talks to one server can talk to the other. Only what
this service uses is there.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serve_config.errors import ServeError
from serve_config.litserve import DESCRIBE, SAMPLES
from serve_config.litserve.keys import KINDS, Keys
from serve_config.litserve.metrics import Metrics
from serve_config.litserve.versions import Limits, QueueFull, Version, WorkerDied, server_log
from serve_config.models.archives import SAFE_NAME, read_archive
from serve_config.server.state import MODEL

Endpoint = Callable[[Request], Awaitable[Response]]
WITHOUT_VERSION = "default"  # the label of requests whose URL names no version


class Problem(Exception):
    """An error in TorchServe's form: HTTP status, the name of its exception, a message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message

    def response(self) -> Response:
        body = {"code": self.status, "type": self.kind, "message": self.message}
        headers = {"Retry-After": "1"} if self.status == 503 else None
        return Response(json.dumps(body, indent=2), self.status, headers, "application/json")


class Frontend:
    """The registered versions, and which of them is the default.

    Args:
        store: the folder of archives.
        folder: where they are unpacked, private to this user.
        keys: who may ask.
        limits: for what an archive leaves open.
        max_request_size: in bytes.
    """

    def __init__(self, store: Path, folder: Path, keys: Keys, limits: Limits, max_request_size: int) -> None:
        self.store, self.folder, self.keys = store, folder, keys
        self.limits, self.max_request_size = limits, max_request_size
        self.versions: dict[str, Version] = {}
        self.default: str | None = None
        self.metrics = Metrics()

    def inference(self) -> Starlette:
        """The routes of the inference port."""
        predict = self._with_key("inference", self.predict)
        return _application(
            Route("/ping", self._with_key("inference", self.ping)),
            Route("/predictions/{model}", predict, methods=["POST", "PUT"]),
            Route("/predictions/{model}/{version}", predict, methods=["POST", "PUT"]),
        )

    def management(self) -> Starlette:
        """The routes of the management port."""
        described = self._with_key("management", self.describe)
        one = "/models/{model}/{version}"
        return _application(
            Route("/models", self._with_key("management", self.list)),
            Route("/models", self._with_key("management", self.register), methods=["POST"]),
            Route("/models/{model}", described),
            Route(one, described),
            Route(one, self._with_key("management", self.unregister), methods=["DELETE"]),
            Route(f"{one}/set-default", self._with_key("management", self.set_default), methods=["PUT"]),
            Route("/token", self._with_key("API", self.renew_key)),
        )

    def monitoring(self) -> Starlette:
        """The routes of the metrics port, which needs no key."""
        return _application(Route("/metrics", self.show_metrics))

    def _with_key(self, kind: str, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            if not self.keys.accept(kind, request.headers.get("Authorization", "")):
                raise Problem(400, "InvalidKeyException", "The key is wrong, has expired, or is missing.")
            return await endpoint(request)

        return checked

    def _named(self, request: Request) -> Version:
        """The version that a URL names, or the default. Raises Problem."""
        model, name = request.path_params["model"], request.path_params.get("version")
        if model != MODEL or (name is None and self.default is None):
            raise Problem(404, "ModelNotFoundException", f"Model not found: {model}")
        version = self.versions.get(str(name or self.default))
        if version is None:
            message = f"Model version: {name} does not exist for model: {model}"
            raise Problem(404, "ModelVersionNotFoundException", message)
        return version

    async def ping(self, _request: Request) -> Response:
        healthy = all(version.ready.is_set() for version in self.versions.values())
        return JSONResponse({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 500)

    async def predict(self, request: Request) -> Response:
        """Pass a prediction to its version, and count it."""
        self._named(request)  # fail before reading 20 MB
        body = await self._body(request)
        version = self._named(request)
        given, own = request.headers.get("X-Request-ID", ""), str(uuid.uuid4())
        request_id = f"{given}/{own}" if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else own
        headers = {"Content-Type": request.headers.get("Content-Type", ""), "X-Request-ID": request_id}
        labels = [MODEL, request.path_params.get("version", WITHOUT_VERSION)]
        self.metrics.add("ts_inference_requests_total", 1, labels)
        start = asyncio.get_running_loop().time()
        reply = await self._ask(version, body, headers)
        taken = asyncio.get_running_loop().time() - start
        self.metrics.add("ts_inference_latency_microseconds", taken * 1e6, labels)
        self.metrics.add("ts_queue_latency_microseconds", reply.waited * 1e6, labels)
        for name, value, more in json.loads(reply.headers.get(SAMPLES, "[]")):
            self.metrics.add(name, value, more)
        return Response(
            reply.body, reply.status, {"Content-Type": reply.headers["content-type"], "x-request-id": own}
        )

    async def _ask(self, version: Version, body: bytes, headers: dict[str, str]) -> Any:
        try:
            return await version.ask(body, headers)
        except QueueFull:
            message = f"The queue of model {MODEL}, version {version.name}, is full."
            raise Problem(503, "ServiceUnavailableException", message) from None
        except WorkerDied:
            raise Problem(507, "InternalServerException", "Worker died.") from None

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.max_request_size:
                message = f"The request has more than {self.max_request_size:,} bytes."
                raise Problem(413, "RequestEntityTooLargeException", message)
        return bytes(body)

    async def list(self, _request: Request) -> Response:
        """The one model, if any version is registered."""
        return JSONResponse({"models": [{"modelName": MODEL}] if self.default else []})

    async def describe(self, request: Request) -> Response:
        """One version, the default, or ``all``; with ``customized=true`` what the model says of itself."""
        if request.path_params.get("version") == "all" and self.versions:
            return JSONResponse([version.describe() for version in self.versions.values()])
        version = self._named(request)
        description = version.describe()
        if request.query_params.get("customized") == "true":
            reply = await self._ask(version, b"", {DESCRIBE: "true"})
            description["customizedMetadata"] = json.loads(reply.body)
        return JSONResponse([description])

    async def register(self, request: Request) -> Response:
        """Unpack an archive of the store and start it; the first one becomes the default. It is not READY yet."""
        url = request.query_params.get("url", "")
        if not SAFE_NAME.fullmatch(url) or not url.endswith(".mar"):
            message = "The URL does not match any allowed URL: it must be the name of an archive in the store"
            raise Problem(404, "ModelNotFoundException", message)
        try:
            archive = await asyncio.to_thread(read_archive, self.store / url)
        except ServeError as error:
            raise Problem(404, "ModelNotFoundException", str(error)) from None
        if archive.version in self.versions:
            message = f"Model version {archive.version} is already registered for model {MODEL}"
            raise Problem(409, "ConflictStatusException", message)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        await asyncio.to_thread(_unpack, archive.path, folder)
        self.versions[archive.version] = Version(archive.version, url, folder, self.limits)
        self.default = self.default or archive.version
        return _status(f"Model version {archive.version} registered; its workers are starting", 202)

    async def unregister(self, request: Request) -> Response:
        """Let a version answer what it has been asked, then end it. The default only goes last."""
        version = self._named(request)
        if version.name == self.default and len(self.versions) > 1:
            message = f"Can't remove default version: {version.name}"
            raise Problem(403, "InvalidModelVersionException", message)
        del self.versions[version.name]
        if version.name == self.default:
            self.default = None
        await version.close(version.response_timeout)
        shutil.rmtree(version.folder, ignore_errors=True)
        return _status(f'Model "{MODEL}" unregistered')

    async def set_default(self, request: Request) -> Response:
        self.default = self._named(request).name
        server_log.info("%s is the default", self.default, extra={"who": "frontend"})
        return _status(f'Default version successfully updated for model "{MODEL}" to "{self.default}"')

    async def renew_key(self, request: Request) -> Response:
        kind = request.query_params.get("type", "")
        if kind not in KINDS:
            raise Problem(400, "InvalidKeyException", f"type must be one of {', '.join(KINDS)}")
        self.keys.renew(kind)
        return PlainTextResponse("")

    async def show_metrics(self, _request: Request) -> Response:
        await asyncio.to_thread(self.metrics.measure_machine)
        return PlainTextResponse(self.metrics.page())

    async def close(self) -> None:
        """End every version at once."""
        await asyncio.gather(*(version.close(0) for version in self.versions.values()))


def _application(*routes: Route) -> Starlette:
    handlers: dict[Any, Any] = {
        Problem: lambda _request, problem: problem.response(),
        HTTPException: lambda _request, error: _unknown(error.status_code).response(),
    }
    return Starlette(routes=list(routes), exception_handlers=handlers)


def _unknown(status: int) -> Problem:
    kinds = {404: "ResourceNotFoundException", 405: "MethodNotAllowedException"}
    kind = kinds.get(status, "InternalServerException")
    return Problem(status, kind, f"{HTTPStatus(status).phrase}: please check the URL and the HTTP method.")


def _status(text: str, status: int = 200) -> Response:
    return JSONResponse({"status": text}, status)


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
