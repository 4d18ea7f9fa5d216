"""``make load`` and ``make soak`` fail on bad measurements; and three minutes of the real soak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_config.server.properties import Settings
from tests.benchmarks.load import Sample, failures, growth, service, soak, summarize
from web_client import config


def samples(*statuses: int, phase: str = "steady", promised: bool = True) -> list[Sample]:
    return [Sample(phase, float(i), 0.1 * (i + 1), status, promised) for i, status in enumerate(statuses)]


def test_a_row_counts_every_request_once() -> None:
    (row,) = summarize(samples(200, 200, 400, 503, 0, 502))
    assert (row["asked"], row["answered"], row["503"], row["other or lost"]) == (6, 3, 1, 2)
    assert row["p50 ms"] == pytest.approx(200)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (samples(200, 0), "1 requests were lost"),
        (samples(200, 500), "1 requests were lost or got an unexpected status"),
        (samples(200, 503), "turned away"),
        (samples(200, 503, phase="burst", promised=False), "without Retry-After"),
        (samples(200, phase="burst"), "did not reach the queue's limit"),
    ],
)
def test_broken_promises_are_reported(made: list[Sample], words: str) -> None:
    assert any(words in failure for failure in failures(summarize(made)))


def test_good_load_has_no_failures() -> None:
    assert failures(summarize([*samples(200, 400), *samples(200, 503, phase="burst")])) == []


def test_the_page_can_fill_the_queue_of_torchserve() -> None:
    """Otherwise a burst would wait in the web server, without a limit and without a 503."""
    batch = 8  # the largest that the README recommends
    assert config.read({})["THREADS"] >= Settings().job_queue_size + batch


def measured(megabytes: float, files: float) -> list[dict[str, Any]]:
    """A minute in which a process grows steadily, with some noise."""
    return [
        {
            "seconds": 4.0 * i,
            "worker MB": 500 + megabytes * i / 15 + 3 * (i % 2),
            "worker files": 30 + files * i / 15,
        }
        for i in range(16)
    ]


@pytest.mark.parametrize(
    ("megabytes", "files", "grows"), [(0, 0, []), (60, 0, ["MB"]), (0, 10, ["files"]), (-9, -1, [])]
)
def test_growth_is_told_from_noise(megabytes: float, files: float, grows: list[str]) -> None:
    row = growth(measured(megabytes, files), "worker")
    assert row["MB grown"] == pytest.approx(megabytes, abs=2)
    assert [
        word for word in ("MB", "files") if any(f" {word}, more" in each for each in failures([], [row]))
    ] == grows


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_three_minutes_of_soak(tmp_path: Path) -> None:
    with service(tmp_path) as (server, url, page):
        asked, grown = soak(server, url, page, minutes=3)
    assert failures(summarize(asked), grown) == []
    assert len(asked) > 500
    assert {row["process"] for row in grown} == {"worker", "page", "TorchServe (Java)"}
