"""The settings of the web client: one table, from which the flags, the environment and the app are filled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One option. ``--inference-url``, ``WEB_CLIENT_INFERENCE_URL`` and ``app.config["INFERENCE_URL"]``
    are the same."""

    name: str
    default: str | int | float
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.lower().replace("_", "-")

    @property
    def env(self) -> str:
        return "WEB_CLIENT_" + self.name


SETTINGS = (
    Setting("HOST", "127.0.0.1", "address to listen on"),
    Setting("PORT", 5000, "port to listen on; 0 picks a free one"),
    Setting("INFERENCE_URL", "http://127.0.0.1:8080", "TorchServe's inference address"),
    Setting("MANAGEMENT_URL", "http://127.0.0.1:8081", "TorchServe's management address"),
    Setting("KEY_FILE", ".serve/key_file.json", "the key_file.json that TorchServe writes"),
    Setting("MODEL_NAME", "maskrcnn", "name of the model in TorchServe"),
    Setting("MAX_BYTES", 20_000_000, "largest picture in bytes"),
    Setting("MAX_PIXELS", 25_000_000, "largest picture in pixels, width times height"),
    Setting("TIMEOUT", 60.0, "seconds to wait for a prediction"),
    Setting("TRUSTED_PROXY", "", "address of the proxy whose X-Forwarded-For names the visitor"),
    Setting("RATE_LIMIT", "60 per minute", "pictures per visitor; an empty text switches the limit off"),
    # more than TorchServe lets wait (32): only then does a full queue show, and is told, instead of growing here
    Setting("THREADS", 48, "requests answered at the same time"),
)


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The table with values from ``WEB_CLIENT_…`` variables; raises ValueError naming one that is no
    number."""
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = environ.get(setting.env)
        try:
            values[setting.name] = setting.default if text is None else type(setting.default)(text)
        except ValueError:
            raise ValueError(f"{setting.env}={text!r} is not a number") from None
    return values
