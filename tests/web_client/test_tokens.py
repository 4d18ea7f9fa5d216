"""Tokens: nobody is answered without one, and a file that cannot be trusted lets nobody in."""

from __future__ import annotations

import io
import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from tests.web_client.stub import balloon_picture
from tests.web_client.test_errors import assert_error_shape
from web_client.app import create_app
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
def client(config: dict[str, Any], tokens: TokenFile) -> FlaskClient:
    return create_app(config | {"TOKEN_FILE": str(tokens.path)}).test_client()


def ask(client: FlaskClient, secret: str | None, path: str = "/api/v1/predict") -> Any:
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    return client.post(path, data={"image": (io.BytesIO(balloon_picture()), "a.png")}, headers=headers)


def test_only_a_valid_token_is_answered(client: FlaskClient, tokens: TokenFile) -> None:
    """Missing, wrong, expired and revoked tokens get the same answer to the letter."""
    good, expired, revoked = tokens.add("good"), tokens.add("old", days=1e-9), tokens.add("gone")
    tokens.revoke("gone")
    assert ask(client, good).status_code == 200
    bodies = []
    for secret in (None, "", "mrcnn_wrong", expired, revoked):
        response = ask(client, secret)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        bodies.append(response.get_json())
    assert_error_shape(bodies[0])
    assert all(body == bodies[0] for body in bodies)


def test_a_change_needs_no_restart(client: FlaskClient, tokens: TokenFile) -> None:
    secret = tokens.add("anna")
    assert ask(client, secret).status_code == 200
    tokens.revoke("anna")
    assert ask(client, secret).status_code == 401


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/openapi.json", "/api"])
def test_what_needs_no_token(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_every_other_route_needs_one(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FAILURES", access.parse("1000 per minute"))
    guarded = [
        (method, rule.rule)
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}
        if rule.endpoint not in access.OPEN
    ]
    assert ("POST", "/") in guarded
    assert ("GET", "/api/models") in guarded
    for method, path in guarded:
        assert client.open(path, method=method).status_code == 401


def test_the_form_without_javascript_has_a_field(client: FlaskClient, tokens: TokenFile) -> None:
    assert 'name="token"' in client.get("/").text
    secret = tokens.add("form")
    form = {"image": (io.BytesIO(balloon_picture()), "a.png"), "token": secret}
    assert client.post("/", data=form).status_code == 200


def test_failures_are_slowed_down(client: FlaskClient, tokens: TokenFile) -> None:
    secret = tokens.add("anna")
    assert [ask(client, "wrong").status_code for _ in range(12)] == [401] * 10 + [429] * 2
    refused = ask(client, secret)
    assert refused.status_code == 429
    assert refused.get_json()["error"]["code"] == "too_many_failures"
    assert int(refused.headers["Retry-After"]) > 0


def test_each_token_has_its_own_limit(config: dict[str, Any], tokens: TokenFile) -> None:
    few, many = tokens.add("few", rate_limit="2 per minute"), tokens.add("many")
    client = create_app(config | {"TOKEN_FILE": str(tokens.path), "RATE_LIMIT": "4 per minute"}).test_client()
    assert [ask(client, few).status_code for _ in range(3)] == [200, 200, 429]
    assert [ask(client, many).status_code for _ in range(5)] == [200] * 4 + [429]


def test_a_token_without_a_limit(config: dict[str, Any], tokens: TokenFile) -> None:
    """`--rate-limit off` is for this token alone, and the file stays readable."""
    arguments = ["token", "add", "batch", "--rate-limit", "off", "--file", str(tokens.path)]
    secret = CliRunner().invoke(web, arguments).stdout.strip()
    client = create_app(config | {"TOKEN_FILE": str(tokens.path), "RATE_LIMIT": "1 per minute"}).test_client()
    assert [ask(client, secret).status_code for _ in range(3)] == [200] * 3
    other = tokens.add("other")
    assert [ask(client, other).status_code for _ in range(2)] == [200, 429]


DAMAGED = {
    "not JSON": "{",
    "no list": "{}",
    "unknown key": '{"tokens": [{"name": "a", "sha256": "' + "0" * 64 + '", "created": "", "admin": true}]}',
    "no hash": '{"tokens": [{"name": "a", "sha256": "", "created": ""}]}',
    "a limit that cannot be read": '{"tokens": [{"name": "a", "sha256": "' + "0" * 64 + '", "created": "", '
    '"rate_limit": "lots"}]}',
    "an expiry that cannot be read": '{"tokens": [{"name": "a", "sha256": "' + "0" * 64 + '", "created": "", '
    '"expires": "soon"}]}',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_lets_nobody_in(
    config: dict[str, Any], tokens: TokenFile, client: FlaskClient, text: str
) -> None:
    secret = tokens.add("anna")
    tokens.path.write_text(text)
    with pytest.raises(WebClientError, match="cannot be read"):
        create_app(config | {"TOKEN_FILE": str(tokens.path)})
    response = ask(client, secret)  # of a server that was running already
    assert response.status_code == 503
    assert response.get_json()["error"]["code"] == "tokens_unavailable"


def test_a_file_that_others_can_read_is_refused(config: dict[str, Any], tokens: TokenFile) -> None:
    tokens.path.chmod(0o644)
    with pytest.raises(WebClientError, match="run `chmod 600"):
        create_app(config | {"TOKEN_FILE": str(tokens.path)})


def test_a_missing_file_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(WebClientError, match="maskrcnn web token add"):
        create_app(config | {"TOKEN_FILE": str(tmp_path / "none.json")})


def test_the_commands(tmp_path: Path) -> None:
    file = tmp_path / "new" / "tokens.json"

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(web, ["token", *arguments, "--file", str(file)])

    secret = run("add", "anna", "--days", "30", "--rate-limit", "600 per minute").stdout.strip()
    assert secret.startswith("mrcnn_")
    assert len(secret) > 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in file.read_text()
    assert json.loads(file.read_text())["tokens"][0]["name"] == "anna"
    assert "600 per minute" in run("list").stdout
    for wrong in (
        ("add", "anna"),
        ("add", "a b"),
        ("add", "b", "--rate-limit", "lots"),
        ("revoke", "nobody"),
    ):
        assert run(*wrong).exit_code != 0
    assert run("revoke", "anna").exit_code == 0
    assert run("list").stdout == ""


def test_a_check_is_quick_with_a_thousand_tokens(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    secret = tokens.add("one")
    entry = tokens.all()[0]
    tokens._write([entry, *(type(entry)(f"t{i}", f"{i:064x}", entry.created) for i in range(999))])
    assert tokens.find(secret) == entry
    begun = time.process_time()
    for _ in range(1000):
        tokens.find(secret)
    milliseconds = time.process_time() - begun
    print(f"{milliseconds:.3f} ms a check")
    assert milliseconds < 0.2
