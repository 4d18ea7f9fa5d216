"""The review store: what is kept, how much of it, for how long, and who may read it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from flask.testing import FlaskClient

from tests.web_client import conftest
from tests.web_client.conftest import refusal
from tests.web_client.stub import Stub, balloon_picture
from web_client.api import review
from web_client.api.review import ReviewStore
from web_client.api.routes import score_threshold
from web_client.api.uploads import Picture
from web_client.errors import WebClientError

SURE = balloon_picture(120, 90)  # one object with a score of 0.95
UNSURE = balloon_picture(
    300, 200, [(30 + 50 * i, 100, 20) for i in range(5)]
)  # scores from 0.95 down to 0.51
send = partial(conftest.send, name="a secret name.png", score_threshold="0.05")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "review"


@pytest.fixture
def client(make_client: Callable[..., FlaskClient], folder: Path) -> FlaskClient:
    return make_client(REVIEW=str(folder))


def kept(folder: Path) -> list[tuple[str, bytes]]:
    """Reason and photo of every entry."""
    entries = [(path.name.partition("-")[2], path) for path in folder.glob("[!.]*")]
    return sorted((reason, next(path.glob("photo.*")).read_bytes()) for reason, path in entries)


def test_what_is_uncertain_or_flagged_is_kept(client: FlaskClient, folder: Path) -> None:
    answers = [send(client, each).get_json() for each in (SURE, UNSURE)]
    assert kept(folder) == [("uncertain", UNSURE)]
    assert send(client, SURE, review="wrong").get_json()["instances"] == answers[0]["instances"]
    assert kept(folder) == [("uncertain", UNSURE), ("wrong", SURE)]
    (path,) = folder.glob("*-uncertain/answer.json")
    content = json.loads(path.read_text())
    assert content["answer"]["instances"] == answers[1]["instances"]
    assert content["answer"]["model"]["weights_sha256"] == "ab" * 32
    assert content["classes"] == ["balloon"]
    assert content["score_threshold"] == 0.5
    assert "secret" not in path.read_text()
    assert list(content) == ["time", "reason", "score_threshold", "classes", "answer"]


def test_two_versions_that_disagree(client: FlaskClient, folder: Path, stub: Stub) -> None:
    """The second version of the stub misses an object. An answer to other options says nothing about it."""
    send(client, SURE, score_threshold="0.1")
    send(client, SURE, version="resnet50_fpn")
    assert kept(folder) == []
    send(client, SURE)
    assert kept(folder) == [("disagreement", SURE)]
    send(client, SURE, review="wrong")
    send(client, SURE)
    assert kept(folder) == [("wrong", SURE)]
    assert len(stub.requests) == 5, "no version is asked for the store's sake"


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([("cup", (51, 0, 151, 100)), ("cup", (0, 0, 100, 100))], True),  # in another order
        ([("cup", (0, 0, 100, 100))], False),
        ([("cup", (0, 0, 100, 100))] * 2, False),
        ([("cup", (0, 0, 100, 100)), ("mug", (50, 0, 150, 100))], False),
        ([("cup", (0, 0, 100, 100)), ("cup", (100, 0, 200, 100))], False),
        ([("cup", (0, 0, 0, 0))] * 2, False),
    ],
)
def test_same_objects(other: review.Objects, same: bool) -> None:
    one: review.Objects = [("cup", (0, 0, 100, 100)), ("cup", (50, 0, 150, 100))]
    assert review.same_objects(one, other) is same
    assert review.same_objects(other, one) is same


def test_a_flagged_picture_stays_flagged(client: FlaskClient, folder: Path) -> None:
    for form in ({}, {"review": "wrong"}, {}):
        send(client, UNSURE, **form)
    assert kept(folder) == [("wrong", UNSURE)]


def test_nobody_else_can_read_it(
    client: FlaskClient, folder: Path, make_client: Callable[..., FlaskClient]
) -> None:
    send(client, UNSURE)
    paths = [folder, *folder.rglob("*")]
    assert len(paths) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}
    folder.chmod(0o750)
    with pytest.raises(WebClientError, match="run `chmod 700"):
        make_client(REVIEW=str(folder))
    with pytest.raises(WebClientError, match="cannot be used"):
        make_client(REVIEW=str(next(folder.rglob("answer.json"))))


@pytest.mark.parametrize(
    "form", ["review=right", "review=wrong&output=overlay", "review=wrong&mask_format=png"]
)
def test_a_flag_that_cannot_be_honored_is_refused(
    client: FlaskClient, folder: Path, stub: Stub, form: str
) -> None:
    error = refusal(send(client, SURE, **dict(parse_qsl(form))), 400, "invalid_option")
    assert "takes the value wrong" in error["message"]
    assert stub.requests == kept(folder) == []


def test_without_a_store_nothing_is_kept_and_the_page_says_so(
    client: FlaskClient, make_client: Callable[..., FlaskClient]
) -> None:
    without = make_client()
    assert send(without, UNSURE).status_code == 200
    error = refusal(send(without, SURE, review="wrong"), 400, "invalid_option")
    assert "keeps no pictures" in error["message"]
    on, off = client.get("/").text, without.get("/").text
    assert "for up to 30 days" in on
    assert "are not stored. JPEG" in off
    assert 'id="review"' in on
    assert 'id="review"' not in off


def test_a_store_that_cannot_be_written_spoils_no_prediction(
    client: FlaskClient, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(review, "_write", full)
    assert send(client, UNSURE).status_code == 200
    assert "not kept for review: [Errno 28]" in caplog.text
    refusal(send(client, SURE, review="wrong"), 503, "review_unavailable")
    assert [path.name for path in folder.iterdir()] == [review.LOCK]  # nothing half written


def test_a_picture_that_no_data_set_can_hold(client: FlaskClient, folder: Path) -> None:
    assert send(client, balloon_picture(kind="GIF"), review="wrong").status_code == 503
    assert kept(folder) == []


def test_a_folder_with_other_files_is_never_a_store(folder: Path) -> None:
    """Its contents would be deleted one day."""
    (folder / ".ssh").mkdir(parents=True)
    folder.chmod(0o700)
    with pytest.raises(WebClientError, match="holds other files"):
        ReviewStore(folder, 5000, 30)
    assert (folder / ".ssh").exists()


def picture(number: int, size: int = 1000) -> Picture:
    return Picture(bytes([number]) * size, "a.png", "image/png")


def test_a_full_store_drops_the_oldest_and_the_flagged_last(folder: Path) -> None:
    store = ReviewStore(folder, 5000, 30)
    for number, reason in enumerate(("wrong", "uncertain", "uncertain", "uncertain", "uncertain")):
        store.keep(picture(number), {}, reason)
        entry = max(folder.glob("*-*"), key=lambda path: path.stat().st_mtime_ns)
        os.utime(entry, (time.time() - 1000 + number,) * 2)
    names = [(reason, data[0]) for reason, data in kept(folder)]
    assert names == [("uncertain", 2), ("uncertain", 3), ("uncertain", 4), ("wrong", 0)]
    with pytest.raises(ValueError, match="larger than the store"):
        store.keep(picture(9, 5000), {}, "wrong")
    assert len(kept(folder)) == 4


def test_old_pictures_and_half_written_ones_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReviewStore(folder, 5000, 2)
    for number in range(2):
        store.keep(picture(number), {}, "wrong")
    (old, _) = folder.glob("*-wrong")
    os.utime(old, (time.time() - 2 * 86400 - 10,) * 2)
    (folder / ".new-killed").mkdir()
    store.delete_expired()  # looked a moment ago
    assert old.exists()
    monkeypatch.setattr(review.time, "monotonic", lambda: time.perf_counter() + 1e9)
    store.delete_expired()
    assert not old.exists()
    assert [path.name for path in folder.glob(".*")] == [review.LOCK]
    assert len(kept(folder)) == 1


def test_two_processes_on_one_store(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.web_client.test_review import *\n"
        "store = ReviewStore(Path(sys.argv[1]), 20_000, 30)\n"
        "for i in range(40): store.keep(picture((i * int(sys.argv[2])) % 50), {}, 'uncertain')"
    )
    commands = [[sys.executable, "-c", script, str(folder), step] for step in ("3", "7")]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for command in commands]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    entries = list(folder.glob("[!.]*"))
    assert sum(file.stat().st_size for entry in entries for file in entry.iterdir()) <= 20_000
    assert len(entries) >= 15
    assert all(len(list(entry.iterdir())) == 2 for entry in entries)


def test_the_threshold_is_the_model_s_own(client: FlaskClient) -> None:
    options = [{"name": "max_detections", "default": 100}, {"name": "score_threshold", "default": 0.62}]
    assert score_threshold({"options": options}) == 0.62
    assert score_threshold({}) == 0.5
