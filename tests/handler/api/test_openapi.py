"""The published contract says what the code does: options, defaults, limits, error codes, answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from handler.api.errors import RequestError
from handler.api.options import MASK_FORMATS, OPTIONS, OUTPUTS, TILE_SIDES, Options
from handler.api.responses import option_defaults
from handler.api.settings import Settings
from handler.model import MAX_INSTANCES
from handler.service import Request, Service
from tests.handler.awkward import corners, save
from tests.handler.toys import FakePredictor

REPOSITORY = Path(__file__).parents[3]
DOCUMENT = yaml.safe_load((REPOSITORY / "handler" / "api" / "openapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]


def validator(name: str) -> Any:
    return jsonschema_rs.validator_for(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": f"#/components/schemas/{name}"}
        | {"components": DOCUMENT["components"]}
    )


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def test_the_document_is_openapi() -> None:
    import schemathesis

    operations = [found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
    assert {(operation.method, operation.path) for operation in operations} == {
        (method, path)
        for method in ("post", "put")
        for path in ("/predictions/maskrcnn", "/predictions/maskrcnn/{version}")
    }
    for name, schema in SCHEMAS.items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        validator(name)  # every reference in it leads somewhere


@pytest.mark.parametrize("place", ["Options", "Form"])
def test_options_and_defaults_are_those_of_the_code(place: str) -> None:
    properties = {name: resolved(schema) for name, schema in SCHEMAS[place]["properties"].items()}
    properties.pop("image", None)
    defaults = option_defaults(Options(), [])
    assert defaults.pop("score_threshold") == 0.5
    assert "operating point decides; 0.5 if" in properties["score_threshold"]["description"]
    assert {name: s["default"] for name, s in properties.items() if "default" in s} == defaults
    assert {o.name: o.default for o in OPTIONS if o.name != "score_threshold"} == defaults
    assert tuple(properties["mask_format"]["enum"]) == MASK_FORMATS
    assert tuple(properties["output"]["enum"]) == OUTPUTS
    assert (properties["score_threshold"]["minimum"], properties["score_threshold"]["maximum"]) == (0, 1)
    assert (properties["max_detections"]["minimum"], properties["max_detections"]["maximum"]) == (
        1,
        MAX_INSTANCES,
    )
    assert properties["tiles"]["anyOf"][1] == dict(zip(("minimum", "maximum"), TILE_SIDES, strict=True))
    for option in OPTIONS:
        assert properties[option.name]["description"].startswith(option.meaning.rstrip("."))


def raised_codes() -> set[tuple[int, str]]:
    """Status and code of every error, read from the source: ``BadRequest("code", …)`` and its siblings."""
    statuses = {kind.__name__: kind.status for kind in RequestError.__subclasses__()}
    sources = "".join(path.read_text() for path in sorted((REPOSITORY / "handler").rglob("*.py")))
    found = re.findall(rf'\b({"|".join(statuses)})\(\s*"(\w+)"', sources)
    return {(statuses[kind], code) for kind, code in found} | {(500, "internal_error")}


def test_every_error_code_is_documented_under_its_status() -> None:
    responses = DOCUMENT["paths"]["/predictions/maskrcnn"]["post"]["responses"]
    documented = {
        (int(status), code)
        for status, response in responses.items()
        for code in re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", response["description"])
    }
    assert documented == raised_codes()
    assert len(documented) > 12


JPEG = save(corners(), "JPEG")


@pytest.mark.parametrize("mask_format", MASK_FORMATS)
@pytest.mark.parametrize("output", ["json", "coco"])
def test_answers_fit_the_schema(output: str, mask_format: str) -> None:
    request = {"image": JPEG, "output": output.encode(), "mask_format": mask_format.encode()}
    (answer,) = Service(FakePredictor(3), Settings()).answer(
        [Request(request, "multipart/form-data; boundary=x")]
    )
    if (output, mask_format) == ("coco", "png"):
        assert answer.status == 400
        validator("Error").validate(json.loads(answer.body))
    else:
        validator("Prediction" if output == "json" else "CocoResults").validate(json.loads(answer.body))


def test_a_schema_that_accepts_everything_would_show() -> None:
    for name in ("Prediction", "CocoResults", "Error", "Document", "Form", "Options"):
        assert not validator(name).is_valid({"surprise": 1})
    assert not validator("Options").is_valid({"output": "coco", "mask_format": "png"})
    assert validator("Options").is_valid({"output": "coco", "classes": ["balloon", 0]})
