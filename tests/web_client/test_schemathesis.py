"""A fuzzer that reads /api/openapi.json, against the web server in front of the stub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.web_client.conftest import serving
from web_client.app import create_app
from web_client.server import access
from web_client.server.tokens import TokenFile

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("with_tokens", [False, True], ids=["open", "tokens"])
def test_the_fuzzer_finds_nothing(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_tokens: bool
) -> None:
    monkeypatch.setattr(access, "FAILURES", access.parse("100000 per minute"))
    headers = []
    if with_tokens:
        tokens = TokenFile(tmp_path / "tokens.json")
        headers = ["--header", f"Authorization: Bearer {tokens.add('fuzzer')}"]
        config |= {"TOKEN_FILE": str(tokens.path)}
    with serving(create_app(config)) as url:
        command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/api/openapi.json", *headers]
        command += [
            "--url",
            f"{url}/api",
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples=40",
            "--seed=0",
        ]
        # a server without tokens ignores one, and a picture of random bytes is refused although the schema allows it
        command += ["--exclude-checks", "ignored_auth,positive_data_acceptance"]
        command += ["--request-timeout=20", "--continue-on-failure", "--no-color"]
        run = subprocess.run(
            command, env=os.environ, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    print(run.stdout[-8000:])
    assert run.returncode == 0, run.stderr[-2000:]
