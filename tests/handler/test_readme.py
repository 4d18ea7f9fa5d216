"""handler/README.md says what the code does: its tables are compared with the code's."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from handler.api.metrics import METRICS
from handler.api.options import OPTIONS
from handler.api.settings import Settings, parse_settings
from handler.maskrcnn_handler import MaskRCNNHandler
from handler.predict.cli import predict
from tests.handler.api.test_openapi import raised_codes

README = (Path(__file__).parents[2] / "handler/README.md").read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first heading is ``first``."""
    start = README.index(f"\n| {first} |") + 1
    lines = README[start:].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_options() -> None:
    assert table("option")[: len(OPTIONS)] == [
        [f"`{o.name}`", o.values, str(o.default), o.meaning] for o in OPTIONS
    ]


def test_errors() -> None:
    assert sorted((int(status), code.strip("`")) for status, code, _ in table("status")) == sorted(
        raised_codes()
    )


def test_settings() -> None:
    def default(field: dataclasses.Field) -> str:
        shown = {"warmup": [[768, 1024]], "options": {}}
        value = shown.get(field.name, field.default)
        return value if isinstance(value, str) else json.dumps(value)

    rows = [[f"`{f.name}`", f"`{default(f)}`", f.metadata["meaning"]] for f in dataclasses.fields(Settings)]
    assert table("key") == rows


def test_settings_in_the_handlers_manual() -> None:
    manual = MaskRCNNHandler.__doc__ or ""
    section = re.search(r"        handler:\n(?:          .*\n)+", manual)
    assert section
    given = yaml.safe_load(section[0])["handler"]
    assert set(given) == {field.name for field in dataclasses.fields(Settings)}
    assert parse_settings(given, ["balloon"]) == Settings()


def test_metrics() -> None:
    assert table("metric") == [[f"`{m.name}`", m.kind, m.unit, m.meaning] for m in METRICS]


@pytest.mark.parametrize("option", [o.opts[0] for o in predict.params if o.opts[0].startswith("--")])
def test_options_of_predict(option: str) -> None:
    rows = README[README.index("## Predict without a server") :].partition("## Another server")[0]
    assert f"`{option}`" in rows or f"`{option} " in rows
