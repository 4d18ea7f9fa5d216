"""Send over 700 bad requests (:mod:`tests.corpus`), and good ones between them, to TorchServe and to the web server.

Every answer is 2xx, or 4xx in the one error shape; it comes in time and shows no path, trace or key. The worker is not
restarted, and each good request gets the answer that it would get alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from serve_config.models.management import versions
from serve_config.server.logs import read_tail, server_errors, worker_errors
from tests.corpus import Case, corpus, files
from tests.torchserve_fixture import RunningTorchServe

pytestmark = [
    pytest.mark.e2e,
    # Pillow warns of broken metadata; only in tests is a warning an error
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]

LIMIT = 15.0  # seconds for one answer, with others in flight on two cores
TELLTALE = re.compile(
    rb"/(tmp|usr|home|root|srv|opt|work)/|Traceback|File \"|\.py\b|\bat [a-z]+\.[a-z.]+\(", re.ASCII
)
GOOD = files()["JPEG"]
Door = Callable[[Case], requests.Response]


def post(url: str, case: Case, as_form: bool, key: str = "") -> requests.Response:
    headers = dict(case.headers) | ({"Authorization": f"Bearer {key}"} if key else {})
    if case.content_type is None and as_form:
        return requests.post(url, files={"image": (case.filename, case.body)}, headers=headers, timeout=60)
    if case.content_type is not None:
        headers["Content-Type"] = case.content_type
    return requests.post(url, data=case.body, headers=headers, timeout=60)


@pytest.fixture
def doors(served: RunningTorchServe, page: str) -> dict[str, Door]:
    """The ways in: TorchServe with the file as body or as form, and the web server."""
    inference = served.client.url("inference", "/predictions/maskrcnn")
    key = served.client.read_key("inference")[0]
    return {
        "body": lambda case: post(inference, case, False, key),
        "form": lambda case: post(inference, case, True, key),
        "page": lambda case: post(f"{page}/api/predict", case, True),
    }


def has_the_shape(answer: requests.Response) -> bool:
    """``{"error": {"code", "message", "field"}}``: a word for programs, a sentence for people, a name or null."""
    try:
        body = answer.json()
    except ValueError:
        return False
    error = body.get("error") if isinstance(body, dict) and list(body) == ["error"] else None
    return (
        isinstance(error, dict)
        and set(error) == {"code", "message", "field"}
        and re.fullmatch(r"[a-z0-9_]+", str(error["code"])) is not None
        and str(error["message"]).endswith((".", "…"))
        and isinstance(error["field"], str | None)
    )


def faults(door: str, answer: requests.Response, seconds: float, keys: list[bytes]) -> Iterator[str]:
    """What is wrong with an answer."""
    # what TorchServe itself refuses never reaches the handler, and has TorchServe's own shape
    by_torchserve = door != "page" and re.search(r'"type": "\w+Exception"', answer.text)
    if by_torchserve and answer.status_code == 500 and "InternalServerException" not in answer.text:
        return  # a form that TorchServe cannot parse; a failing handler would be an InternalServerException
    if not (200 <= answer.status_code < 300 or 400 <= answer.status_code < 500):
        yield f"status {answer.status_code}: {answer.text[:200]}"
    elif answer.status_code >= 400 and not (has_the_shape(answer) or by_torchserve):
        yield f"shape of {answer.status_code}: {answer.text[:200]}"
    if seconds > LIMIT:
        yield f"took {seconds:.1f} s"
    if found := TELLTALE.search(answer.content):
        yield f"shows {answer.content[max(0, found.start() - 60) : found.end() + 60]!r}"
    if any(key in answer.content for key in keys):
        yield "shows a key"


def worker(served: RunningTorchServe) -> tuple[Any, ...]:
    (version,) = versions(served.client)
    return tuple((each["pid"], each["startTime"], each["status"]) for each in version.workers)


def run_corpus(served: RunningTorchServe, doors: dict[str, Door], cases: list[Case]) -> str:
    """Send every case through every door, and a good image after every ninth; return what went wrong, by lines."""
    before, wrong = worker(served), []
    keys = [served.client.read_key(kind)[0].encode() for kind in ("inference", "management", "API")]  # type: ignore[arg-type]
    good = Case("a good picture", GOOD)
    right = {door: send(good).json()["instances"] for door, send in doors.items()}
    jobs = [(door, case) for case in cases for door in doors if door != "form" or case.content_type is None]
    jobs = [job for i, job in enumerate(jobs) for job in ((job, (job[0], good)) if i % 9 == 0 else (job,))]

    def send(job: tuple[str, Case]) -> list[str]:
        door, case = job
        start = time.monotonic()
        try:
            answer = doors[door](case)
        except requests.RequestException as error:
            return [f"no answer: {type(error).__name__} {str(error)[:200]}"]
        found = list(faults(door, answer, time.monotonic() - start, keys))
        if case is good and (answer.status_code != 200 or answer.json()["instances"] != right[door]):
            found.append(f"a good picture was answered wrong: {answer.status_code} {answer.text[:200]}")
        return found

    with ThreadPoolExecutor(4) as pool:
        for (door, case), found in zip(jobs, pool.map(send, jobs), strict=True):
            wrong += [f"{case.name}, {door}: {each}" for each in found]
    if worker(served) != before:
        wrong.append(f"the worker was {before} and is {worker(served)}")
    return "\n".join(wrong)


# TorchServe's worker tries to read a JSON body before the handler gets it, and logs a warning where it cannot
JSON_TRIED = re.compile(
    r"json\.decoder\.JSONDecodeError|UnicodeDecodeError|RecursionError|ValueError: Exceeds the limit"
)


def logged_errors(served: RunningTorchServe) -> list[str]:
    """What the worker raised, and what TorchServe logged about it."""
    logs = served.home.logs
    of_server = [error for error in server_errors(read_tail(logs / "ts_log.log")) if error.version]
    errors = [*worker_errors(read_tail(logs / "model_log.log")), *of_server]
    return [error.message for error in errors if not JSON_TRIED.match(error.message)]


def test_the_whole_corpus(served: RunningTorchServe, doors: dict[str, Door]) -> None:
    cases = corpus()
    assert len(cases) >= 500
    assert run_corpus(served, doors, cases) == ""
    assert logged_errors(served) == []


@pytest.mark.slow
def test_another_seed(served: RunningTorchServe, doors: dict[str, Door]) -> None:
    """Only the random cases, drawn again."""
    drawn = {case.name: case.body for case in corpus()}
    fresh = [case for case in corpus(seed=1) if drawn.get(case.name) != case.body]
    assert len(fresh) > 150
    assert run_corpus(served, doors, fresh) == ""


def test_the_corpus_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    assert corpus(3)[:200] == corpus(3)[:200]
