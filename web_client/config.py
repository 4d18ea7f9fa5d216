"""The web client's settings: one table gives the command's options, the environment variables and the app's config.

A value that cannot be read is an error wherever it comes from: a limit must never disappear because of a typing
mistake.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import click

NO_LIMIT = "off"
BROWSER_EXTRA = 20.0
"""Seconds that the browser waits longer than this server, so that it always shows the server's own message."""


class _Text(click.ParamType):
    """Text that ``check`` accepts. ``check`` raises ValueError with what was expected."""

    def __init__(self, name: str, check: Callable[[str], None]) -> None:
        self.name = name
        self.check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            self.check(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is not valid: expected {error}.", param, ctx)
        return str(value)


class _Seconds(click.FloatRange):
    """A finite number above zero."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return seconds


def _not_empty(text: str) -> None:
    if not text.strip():
        raise ValueError("a value that is not empty")


def _http_url(text: str) -> None:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("an address such as http://127.0.0.1:8080")


def _proxy(text: str) -> None:
    """Empty, ``*`` or an IP address: waitress compares the text with the address of each connection."""
    if text in ("", "*"):
        return
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("an IP address, or * for every proxy") from None


def _rate_limit(text: str) -> None:
    """Flask-Limiter would only log a limit that it cannot parse, and then not limit anybody."""
    if text == NO_LIMIT:
        return
    from limits import parse_many

    try:
        parse_many(text)
    except ValueError:
        raise ValueError(f"a limit such as '60 per minute', or {NO_LIMIT}") from None


@dataclass(frozen=True)
class Setting:
    """One setting: ``--max-bytes``, ``WEB_CLIENT_MAX_BYTES`` and ``app.config["MAX_BYTES"]`` are the same."""

    name: str
    type: click.ParamType
    default: str | int | float
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.lower().replace("_", "-")

    @property
    def env(self) -> str:
        return "WEB_CLIENT_" + self.name

    def convert(self, value: Any, source: str) -> Any:
        """The checked value; raises click.BadParameter that names ``source``."""
        try:
            return self.type.convert(value, None, None)
        except click.BadParameter as error:
            error.param_hint = source
            raise


_COUNT = click.IntRange(min=1)
_URL = _Text("url", _http_url)
SETTINGS = (
    Setting("HOST", _Text("address", _not_empty), "127.0.0.1", "Address to listen on."),
    Setting("PORT", click.IntRange(0, 65535), 5000, "Port to listen on; 0 picks a free one."),
    Setting("INFERENCE_URL", _URL, "http://127.0.0.1:8080", "TorchServe's inference address."),
    Setting("MANAGEMENT_URL", _URL, "http://127.0.0.1:8081", "TorchServe's management address."),
    Setting(
        "KEY_FILE", _Text("path", _not_empty), ".serve/key_file.json", "The key file that TorchServe writes."
    ),
    Setting("MODEL_NAME", _Text("name", _not_empty), "maskrcnn", "Name of the model in TorchServe."),
    Setting("MAX_BYTES", _COUNT, 20_000_000, "Largest picture in bytes."),
    Setting("MAX_PIXELS", _COUNT, 25_000_000, "Largest picture in pixels (width times height)."),
    # Timeouts grow from the inside out: TorchServe 120 s, this server 140 s, the browser 160 s.
    Setting(
        "TIMEOUT",
        _Seconds(),
        140.0,
        f"Seconds to wait for a prediction. Keep it above TorchServe's response timeout (120); "
        f"the browser waits {BROWSER_EXTRA:.0f} seconds longer.",
    ),
    Setting(
        "TRUSTED_PROXY",
        _Text("address", _proxy),
        "",
        "IP address of the reverse proxy whose X-Forwarded-For header names the visitor; * trusts every proxy.",
    ),
    Setting(
        "RATE_LIMIT",
        _Text("limit", _rate_limit),
        "60 per minute",
        f"Pictures per visitor; {NO_LIMIT} removes the limit.",
    ),
    # Must exceed TorchServe's job queue (32), so that a full queue surfaces as a 503 instead of waiting here.
    Setting("THREADS", _COUNT, 48, "Requests handled at the same time."),
)


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Every setting from its variable, or its default. Like click, takes an empty variable for one that is not set.

    Raises:
        click.BadParameter: a variable's value is not valid; the message names the variable.
    """
    return {
        setting.name: setting.convert(environ.get(setting.env) or setting.default, setting.env)
        for setting in SETTINGS
    }


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with every setting among them validated; other keys pass unchanged. Raises click.BadParameter."""
    settings = {setting.name: setting for setting in SETTINGS}
    return {
        name: settings[name].convert(value, name) if name in settings else value
        for name, value in values.items()
    }
