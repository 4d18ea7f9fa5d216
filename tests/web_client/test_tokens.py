"""Tokens: nobody is answered without one, and a file that cannot be trusted lets nobody in."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web_client.conftest import refusal, send
from web_client.cli import web
from web_client.errors import WebClientError
from web_client.server import access
from web_client.server.tokens import TokenFile


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    file = TokenFile(tmp_path / "tokens.json")
    file.add("first")
    return file


@pytest.fixture
def make_guarded(make_client: Callable[..., FlaskClient], tokens: TokenFile) -> Callable[..., FlaskClient]:
    return partial(make_client, TOKEN_FILE=str(tokens.path))


@pytest.fixture
def client(make_guarded: Callable[..., FlaskClient]) -> FlaskClient:
    return make_guarded()


def ask(client: FlaskClient, secret: str | None) -> TestResponse:
    return send(client, headers={} if secret is None else {"Authorization": f"Bearer {secret}"})


def statuses(client: FlaskClient, secret: str, count: int) -> list[int]:
    return [ask(client, secret).status_code for _ in range(count)]


def test_only_a_valid_token_is_answered(client: FlaskClient, tokens: TokenFile) -> None:
    """Missing, wrong, expired and revoked tokens get the same answer to the letter. No change needs a restart."""
    good, expired, revoked = tokens.add("good"), tokens.add("old", days=1e-9), tokens.add("gone")
    assert statuses(client, good, 1) == statuses(client, revoked, 1) == [200]
    tokens.revoke("gone")
    errors = []
    for secret in (None, "", "mrcnn_wrong", expired, revoked):
        response = ask(client, secret)
        assert response.headers["WWW-Authenticate"] == "Bearer"
        errors.append(refusal(response, 401, "token_required"))
    assert all(error == errors[0] for error in errors)


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/openapi.json", "/api"])
def test_what_needs_no_token(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_every_other_route_needs_one(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FAILURES", access.parse("1000 per minute"))
    guarded = {
        (method, rule.rule)
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
        if rule.endpoint not in access.OPEN
    }
    assert {("POST", "/"), ("GET", "/api/models")} < guarded
    for method, path in guarded:
        assert client.open(path, method=method).status_code == 401


def test_the_form_without_javascript_has_a_field(client: FlaskClient, tokens: TokenFile) -> None:
    assert 'name="token"' in client.get("/").text
    assert send(client, path="/", token=tokens.add("form")).status_code == 200


def test_failures_are_slowed_down(client: FlaskClient, tokens: TokenFile) -> None:
    assert statuses(client, "wrong", 12) == [401] * 10 + [429] * 2
    refusal(ask(client, tokens.add("anna")), 429, "too_many_failures")


def test_each_token_has_its_own_limit(make_guarded: Callable[..., FlaskClient], tokens: TokenFile) -> None:
    """``--rate-limit off`` is for this token alone, and the file stays readable."""
    few, many = tokens.add("few", rate_limit="2 per minute"), tokens.add("many")
    arguments = f"token add batch --rate-limit off --file {tokens.path}".split()
    unlimited = CliRunner().invoke(web, arguments).stdout.strip()
    client = make_guarded(RATE_LIMIT="3 per minute")
    assert statuses(client, few, 3) == [200, 200, 429]
    assert statuses(client, many, 4) == [200, 200, 200, 429]
    assert statuses(client, unlimited, 5) == [200] * 5


def damaged(**fields: object) -> str:
    return json.dumps({"tokens": [{"name": "a", "sha256": "0" * 64, "created": "", **fields}]})


DAMAGED = {
    "not JSON": "{",
    "no list": "{}",
    "unknown key": damaged(admin=True),
    "no hash": damaged(sha256=""),
    "a limit that cannot be read": damaged(rate_limit="lots"),
    "an expiry that cannot be read": damaged(expires="soon"),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_lets_nobody_in(
    make_guarded: Callable[..., FlaskClient], tokens: TokenFile, client: FlaskClient, text: str
) -> None:
    secret = tokens.add("anna")
    tokens.path.write_text(text)
    with pytest.raises(WebClientError, match="cannot be read"):
        make_guarded()
    refusal(ask(client, secret), 503, "tokens_unavailable")  # of a server that was running already


def test_a_file_that_others_can_read_or_none_is_refused(
    make_guarded: Callable[..., FlaskClient], tokens: TokenFile
) -> None:
    tokens.path.chmod(0o644)
    with pytest.raises(WebClientError, match="run `chmod 600"):
        make_guarded()
    tokens.path.unlink()
    with pytest.raises(WebClientError, match="maskrcnn web token add"):
        make_guarded()


def test_the_commands(tmp_path: Path) -> None:
    file = tmp_path / "new" / "tokens.json"

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(web, ["token", *arguments, "--file", str(file)])

    secret = run("add", "anna", "--days", "30", "--rate-limit", "600 per minute").stdout.strip()
    assert secret.startswith("mrcnn_")
    assert len(secret) > 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in file.read_text()
    assert "600 per minute" in run("list").stdout
    for wrong in (
        ["add", "anna"],
        ["add", "a b"],
        ["add", "b", "--rate-limit", "lots"],
        ["revoke", "nobody"],
    ):
        assert run(*wrong).exit_code != 0
    assert run("revoke", "anna").exit_code == 0
    assert run("list").stdout == ""


def test_a_check_is_quick_with_a_thousand_tokens(tokens: TokenFile) -> None:
    secret = tokens.add("one")
    entry = tokens.all()[1]
    tokens._write([entry, *(type(entry)(f"t{i}", f"{i:064x}", entry.created) for i in range(999))])
    assert tokens.find(secret) == entry
    begun = time.process_time()
    for _ in range(1000):
        tokens.find(secret)
    milliseconds = time.process_time() - begun
    print(f"{milliseconds:.3f} ms a check")
    assert milliseconds < 0.2
