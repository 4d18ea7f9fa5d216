"""The web client's settings: each is an option, an environment variable and a key of the app's config.

A value that cannot be read is an error wherever it comes from: a limit must never disappear because of a typing
mistake.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

import click

NO_LIMIT = "off"


def text(value: str) -> str:
    return _checked(value, value.strip(), "usable: it is empty")


def url(value: str) -> str:
    address = r"https?://(\[[\da-fA-F:]+\]|[^\s/:]+)(:[1-9]\d{0,4})?(/\S*)?"
    return _checked(value, re.fullmatch(address, value), "an address such as http://127.0.0.1:8080")


def optional_url(value: str) -> str:
    return value and url(value)


def seconds(value: str) -> float:
    number = re.fullmatch(r"\d{1,6}(\.\d+)?", str(value))
    return float(_checked(value, number and float(value), "a number of seconds above zero"))


def proxy(value: str) -> str:
    """An address as text, since waitress compares it with that of each connection."""
    try:
        return value if value in ("", "*") else str(ipaddress.ip_address(value))
    except ValueError:
        raise _refused(value, "an IP address, or * for every proxy") from None


def rate_limit(value: str) -> str:
    """A limit that Flask-Limiter can parse, or ``off``: it only logs one that it cannot parse, and limits nobody."""
    from limits import parse_many

    try:
        if value != NO_LIMIT:
            parse_many(value)
    except ValueError:
        raise _refused(value, f"a limit such as '60 per minute', or {NO_LIMIT}") from None
    return value


def _checked(value: str, good: object, expected: str) -> str:
    if not good:
        raise _refused(value, expected)
    return value


def _refused(value: str, expected: str) -> click.BadParameter:
    return click.BadParameter(f"{value!r} is not {expected}.")


def _option(
    name: str, kind: click.ParamType | Callable[[str], Any], default: object, help_text: str
) -> click.Option:
    """``--max-bytes``, ``WEB_CLIENT_MAX_BYTES`` and ``app.config["MAX_BYTES"]`` are the same."""
    return click.Option(
        ["--" + name.lower().replace("_", "-"), name],
        type=kind,
        default=default,
        envvar=f"WEB_CLIENT_{name}",
        show_default="none" if default == "" else True,
        show_envvar=True,
        help=help_text,
    )


_COUNT = click.IntRange(min=1)
OPTIONS = (
    _option("HOST", text, "127.0.0.1", "Address to listen on."),
    _option("PORT", click.IntRange(0, 65535), 5000, "Port to listen on; 0 picks a free one."),
    _option("INFERENCE_URL", url, "http://127.0.0.1:8080", "TorchServe's inference address."),
    _option("MANAGEMENT_URL", url, "http://127.0.0.1:8081", "TorchServe's management address."),
    _option("KEY_FILE", text, ".serve/key_file.json", "TorchServe's key file."),
    _option("MODEL_NAME", text, "maskrcnn", "Name of the model in TorchServe."),
    _option("MAX_BYTES", _COUNT, 20_000_000, "Largest picture in bytes."),
    _option("MAX_PIXELS", _COUNT, 25_000_000, "Largest picture in pixels (width times height)."),
    _option("MAX_TILED_PIXELS", _COUNT, 100_000_000, "Largest picture in pixels in a request with `tiles`."),
    _option("TIMEOUT", seconds, 140.0, "Seconds to wait for a prediction; keep it above TorchServe's response timeout "
            "(120), so that the innermost message reaches the visitor."),
    _option("TRUSTED_PROXY", proxy, "", "IP address of the reverse proxy whose X-Forwarded-For header names the "
            "visitor; * trusts every proxy."),
    _option("RATE_LIMIT", rate_limit, "60 per minute", f"Pictures per visitor or token; {NO_LIMIT} removes the limit."),
    _option("TOKEN_FILE", str, "", "File of the tokens that callers must show (`maskrcnn web token add` makes it); "
            "without one, everybody who reaches the address is served."),
    _option("REVIEW", str, "", "Folder of the review store: pictures that the model is unsure of or that a visitor "
            "flags as wrong are kept there. Without it, no picture is stored."),
    _option("REVIEW_LIMIT", _COUNT, 1_000_000_000, "Largest size of the review store in bytes; the oldest pictures "
            "make room for new ones, those that nobody flagged first."),
    _option("REVIEW_DAYS", _COUNT, 30, "Days after which the review store deletes a picture."),
    _option("LABEL_STUDIO", optional_url, "", "Address of a Label Studio that asks for predictions at /label-studio; "
            "needs its key in the variable LABEL_STUDIO_API_KEY."),
    _option("ACCESS_LOG", str, "", "File to which one JSON line for each request is appended; - is stdout, and the "
            "page's address then goes to stderr."),
    # Must exceed TorchServe's job queue (32), so that a full queue surfaces as a 503 instead of waiting here.
    _option("THREADS", _COUNT, 48, "Requests handled at the same time."),
)  # fmt: skip


def read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting by name: the given value, else that of its environment variable, else its default.

    Raises:
        click.UsageError: a value is not valid, or there is no such setting.
    """
    arguments = [f"--{name.lower().replace('_', '-')}={value}" for name, value in given.items()]
    return click.Command("web", params=list(OPTIONS)).make_context("maskrcnn web", arguments).params
