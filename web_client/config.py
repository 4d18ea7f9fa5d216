"""The web client's settings: one table gives the command's options, the environment variables and the app's config.

A value that cannot be read is an error wherever it comes from: a limit must never disappear because of a typing
mistake.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

NO_LIMIT = "off"
BROWSER_EXTRA = 20.0
"""Seconds that the browser waits longer than this server, so that it always shows the server's own message."""


class _Checked(click.ParamType):
    """A value that ``read`` returns; ``read`` raises ValueError with what it expects."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.read(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is not {error}.", param, ctx)


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("usable: it is empty")
    return text


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://(\[[\da-fA-F:]+\]|[^\s/:]+)(:[1-9]\d{0,4})?(/\S*)?", text):
        raise ValueError("an address such as http://127.0.0.1:8080")
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or not float(text):
        raise ValueError("a number of seconds above zero")
    return float(text)


def _proxy(text: str) -> str:
    """waitress compares the text with the address of each connection."""
    try:
        return text if text in ("", "*") else str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("an IP address, or * for every proxy") from None


def rate_limit(text: str) -> str:
    """A limit that Flask-Limiter can parse, or ``off``.

    Flask-Limiter only logs a limit that it cannot parse, and then limits nobody.

    Raises:
        ValueError: it is neither.
    """
    from limits import parse_many

    try:
        if text != NO_LIMIT:
            parse_many(text)
    except ValueError:
        raise ValueError(f"a limit such as '60 per minute', or {NO_LIMIT}") from None
    return text


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
_ADDRESS = _Checked("url", _url)
RATE_LIMIT_TYPE = _Checked("limit", rate_limit)
SETTINGS = (
    Setting("HOST", _Checked("address", _text), "127.0.0.1", "Address to listen on."),
    Setting("PORT", click.IntRange(0, 65535), 5000, "Port to listen on; 0 picks a free one."),
    Setting("INFERENCE_URL", _ADDRESS, "http://127.0.0.1:8080", "TorchServe's inference address."),
    Setting("MANAGEMENT_URL", _ADDRESS, "http://127.0.0.1:8081", "TorchServe's management address."),
    Setting("KEY_FILE", _Checked("path", _text), ".serve/key_file.json", "TorchServe's key file."),
    Setting("MODEL_NAME", _Checked("name", _text), "maskrcnn", "Name of the model in TorchServe."),
    Setting("MAX_BYTES", _COUNT, 20_000_000, "Largest picture in bytes."),
    Setting("MAX_PIXELS", _COUNT, 25_000_000, "Largest picture in pixels (width times height)."),
    Setting("MAX_TILED_PIXELS", _COUNT, 100_000_000, "Largest picture in pixels in a request with `tiles`."),
    # Timeouts grow from the inside out: TorchServe 120 s, this server 140 s, the browser 160 s.
    Setting("TIMEOUT", _Checked("seconds", _seconds), 140.0, "Seconds to wait for a prediction; keep it above "
            f"TorchServe's response timeout (120). The browser waits {BROWSER_EXTRA:.0f} seconds longer."),
    Setting("TRUSTED_PROXY", _Checked("address", _proxy), "", "IP address of the reverse proxy whose "
            "X-Forwarded-For header names the visitor; * trusts every proxy."),
    Setting("RATE_LIMIT", RATE_LIMIT_TYPE, "60 per minute",
            f"Pictures per visitor or token; {NO_LIMIT} removes the limit."),
    Setting("TOKEN_FILE", _Checked("path", str), "", "File of the tokens that callers must show (`maskrcnn web token "
            "add` makes it); without one, everybody who reaches the address is served."),
    Setting("REVIEW", _Checked("folder", str), "", "Folder of the review store: pictures that the model is unsure of "
            "or that a visitor flags as wrong are kept there. Without it, no picture is stored."),
    Setting("REVIEW_LIMIT", _COUNT, 1_000_000_000, "Largest size of the review store in bytes; the oldest pictures "
            "make room for new ones, those that nobody flagged first."),
    Setting("REVIEW_DAYS", _COUNT, 30, "Days after which the review store deletes a picture."),
    Setting("LABEL_STUDIO", _Checked("url", lambda text: text and _url(text)), "", "Address of a Label Studio that "
            "asks for predictions at /label-studio; needs its key in the variable LABEL_STUDIO_API_KEY."),
    Setting("ACCESS_LOG", _Checked("file", str), "", "File to which one JSON line for each request is appended; - is "
            "stdout, and the page's address then goes to stderr."),
    # Must exceed TorchServe's job queue (32), so that a full queue surfaces as a 503 instead of waiting here.
    Setting("THREADS", _COUNT, 48, "Requests handled at the same time."),
)  # fmt: skip


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
