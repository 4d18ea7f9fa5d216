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
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serve_config.errors import ServeError
from serve_config.litserve import DESCRIPTION, SAMPLES
from serve_config.litserve.keys import KINDS, Keys
from serve_config.litserve.metrics import Metrics
from serve_config.litserve.versions import Problem, Version
from serve_config.models.archives import SAFE_NAME, read_archive
from serve_config.server.state import MODEL

Endpoint = Callable[[Request], Awaitable[Response]]
WITHOUT_VERSION = "default"  # the label of requests whose URL names no version


class Frontend:
    """The registered versions, and which of them is the default.

    Args:
        store: the folder of archives.
        folder: where they are unpacked, private to this user.
        keys: who may ask.
        settings: TorchServe's, of config.properties.
    """

    def __init__(self, store: Path, folder: Path, keys: Keys, settings: Mapping[str, str]) -> None:
        self.store, self.folder, self.keys, self.settings = store, folder, keys, settings
        self.versions: dict[str, Version] = {}
        self.default: str | None = None
        self.metrics = Metrics()

    def applications(self) -> dict[str, Starlette]:
        """The routes of each port; metrics need no key."""
        predict, one = "/predictions/{model}", "/models/{model}/{version}"
        routes: dict[str, list[Route]] = {"inference": [], "management": [], "metrics": []}
        for port, methods, path, endpoint in (
            ("inference", "GET", "/ping", self.ping),
            ("inference", "POST PUT", predict, self.predict),
            ("inference", "POST PUT", f"{predict}/{{version}}", self.predict),
            ("management", "GET", "/models", self.list_models),
            ("management", "POST", "/models", self.register),
            ("management", "GET", "/models/{model}", self.describe),
            ("management", "GET", one, self.describe),
            ("management", "DELETE", one, self.unregister),
            ("management", "PUT", f"{one}/set-default", self.set_default),
            ("management", "GET", "/token", self.renew_key),
            ("metrics", "GET", "/metrics", self.show_metrics),
        ):
            checked = self._with_key("API" if path == "/token" else port, endpoint)
            routes[port].append(Route(path, checked, methods=methods.split()))
        handlers: dict[Any, Any] = {
            Problem: lambda _request, problem: as_response(problem),
            HTTPException: lambda _request, error: as_response(unknown(error.status_code)),
        }
        return {port: Starlette(routes=found, exception_handlers=handlers) for port, found in routes.items()}

    def _with_key(self, kind: str, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            if not self.keys.accept(kind, request.headers.get("Authorization", "")):
                raise Problem(400, "InvalidKeyException", "The key is wrong, has expired, or is missing.")
            return await endpoint(request)

        return endpoint if kind == "metrics" else checked

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
        labels = [MODEL, request.path_params.get("version", WITHOUT_VERSION)]
        self.metrics.add("ts_inference_requests_total", 1, labels)
        start = asyncio.get_running_loop().time()
        answer, waited = await version.ask(body, request.headers.get("Content-Type", ""), request_id)
        taken = asyncio.get_running_loop().time() - start
        self.metrics.add("ts_inference_latency_microseconds", taken * 1e6, labels)
        self.metrics.add("ts_queue_latency_microseconds", waited * 1e6, labels)
        for name, value, more in json.loads(answer.headers.get(SAMPLES, "[]")):
            self.metrics.add(name, value, more)
        more_headers = {"Content-Type": answer.headers["content-type"], "x-request-id": own}
        return Response(answer.body, answer.status, more_headers)

    async def _body(self, request: Request) -> bytes:
        body, limit = bytearray(), int(self.settings["max_request_size"])
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                message = f"The request has more than {limit:,} bytes."
                raise Problem(413, "RequestEntityTooLargeException", message)
        return bytes(body)

    async def list_models(self, _request: Request) -> Response:
        """The one model, if any version is registered."""
        return JSONResponse({"models": [{"modelName": MODEL}] if self.default else []})

    async def describe(self, request: Request) -> Response:
        """One version, the default, or ``all``; with ``customized=true`` what the model says of itself."""
        if request.path_params.get("version") == "all" and self.versions:
            return JSONResponse([version.describe() for version in self.versions.values()])
        version = self._named(request)
        description = version.describe()
        if request.query_params.get("customized") == "true":
            await version.until_ready()
            description["customizedMetadata"] = json.loads((version.folder / DESCRIPTION).read_bytes())
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
        workers = request.query_params.get("initial_workers", "")
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        with zipfile.ZipFile(archive.path) as file:
            await asyncio.to_thread(file.extractall, folder)
        wanted = int(workers) if workers.isdecimal() else 0
        self.versions[archive.version] = Version(archive.version, url, folder, self.settings, wanted)
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


def as_response(problem: Problem) -> Response:
    body = {"code": problem.status, "type": problem.kind, "message": str(problem)}
    headers = {"Retry-After": "1"} if problem.status == 503 else None
    return Response(json.dumps(body, indent=2), problem.status, headers, "application/json")


def unknown(status: int) -> Problem:
    """TorchServe's error for a URL or method that it does not have."""
    kinds = {404: "ResourceNotFoundException", 405: "MethodNotAllowedException"}
    kind = kinds.get(status, "InternalServerException")
    return Problem(status, kind, f"{HTTPStatus(status).phrase}: please check the URL and the HTTP method.")


def _status(text: str, status: int = 200) -> Response:
    return JSONResponse({"status": text}, status)
