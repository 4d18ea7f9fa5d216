"""A fuzzer that reads handler/api/openapi.yaml, against the real TorchServe.

The document cannot say which classes and versions are served, nor what a decodable picture is: the first are
put into it here, the second come from :mod:`tests.handler.fuzzing_hooks`. All else is the fuzzer's own,
within the schema and against it.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.handler.api.test_openapi import DOCUMENT, REPOSITORY
from tests.torchserve_fixture import RunningTorchServe

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]

# TorchServe's front door, not the handler's: it hands GET, PATCH and DELETE on as well, and answers a missing
# key with 400 where these checks want 405 and 401. (That it does refuse: test_handler_e2e.py.)
NOT_OURS = "unsupported_method,missing_required_header,ignored_auth"


def narrowed() -> dict[str, Any]:
    """The document, for the one served model."""
    document = copy.deepcopy(DOCUMENT)
    schemas = document["components"]["schemas"]
    schemas["ClassName"]["enum"] = ["balloon", "kite", "0", "1"]
    schemas["ClassId"]["maximum"] = 1
    schemas["Version"] = {"type": "string", "enum": ["mobilenetv2_fpn"]}
    # the fuzzer cannot hold "not" against an object with bytes in it: in forms, leave out half of what
    # contradicts
    del schemas["Form"]["not"]
    schemas["Form"]["properties"]["mask_format"] = {"type": "string", "enum": ["rle", "polygon", "none"]}
    return document


def test_the_fuzzer_finds_nothing(served: RunningTorchServe, tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(narrowed()))
    key, _ = served.client.read_key("inference")
    command = [Path(sys.executable).with_name("schemathesis"), "run", tmp_path / "openapi.json"]
    command += ["--url", served.client.url("inference", ""), "--header", f"Authorization: Bearer {key}"]
    command += ["--exclude-checks", NOT_OURS, "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples=60", "--seed=0", "--workers=2", "--request-timeout=60"]
    command += ["--continue-on-failure", "--no-color"]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.handler.fuzzing_hooks", "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        command, env=os.environ | hooks, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    print(run.stdout[-20_000:])
    assert run.returncode == 0, run.stderr[-2000:]
