from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serve_config.server.logs import (
    SILENT_ATTEMPTS,
    Mark,
    last_words,
    last_worker_error,
    load_failed,
    log_size,
    read_tail,
    server_errors,
    worker_errors,
)

OURS, OTHER = "W-9000-maskrcnn_a_b.2-stdout", "W-9001-maskrcnn_other-stdout"
TWO_TRACEBACKS = [
    (OURS, "Torch worker started."),
    (OURS, "Backend worker process died."),
    (OURS, "Traceback (most recent call last):"),
    (OTHER, "Traceback (most recent call last):"),
    (OURS, '  File "x.py", line 1, in <module>'),
    (OTHER, "KeyError: 'other'"),
    (OURS, '    raise ValueError("the cause")'),
    (OURS, "safetensors_rust.SafetensorError: the cause"),
    (OURS, ""),
    (OURS, "During handling of the above exception, another exception occurred:"),
    (OURS, "Traceback (most recent call last):"),
    (OURS, '  File "y.py", line 1, in <module>'),
]


def log_of(lines: list[tuple[str, str]]) -> str:
    return "".join(f"2026-01-31T12:00:00,001 [INFO ] {who} MODEL_LOG - {what}\n" for who, what in lines)


@pytest.mark.parametrize(
    "aftermath",
    [
        "RuntimeError: 500 - Unknown exception",
        "ModuleNotFoundError: No module named 'ts.torch_handler.maskrcnn'",
    ],
)
def test_cause_is_told_and_not_what_follows_from_it(aftermath: str) -> None:
    errors = worker_errors(log_of([*TWO_TRACEBACKS, (OURS, aftermath)]).splitlines())
    told = [(error.version, error.message) for error in errors]
    assert told == [("other", "KeyError: 'other'"), ("a_b.2", "safetensors_rust.SafetensorError: the cause")]


def test_only_what_came_after_counts(tmp_path: Path) -> None:
    log = tmp_path / "model_log.log"
    assert log_size(log) == 0
    assert last_worker_error(tmp_path, "a_b.2") is None
    log.write_text(log_of(TWO_TRACEBACKS))
    assert last_worker_error(tmp_path, "a_b.2") == "safetensors_rust.SafetensorError: the cause"
    assert last_worker_error(tmp_path, "a_b.2", since=log_size(log)) is None
    assert last_worker_error(tmp_path, "a_b") is None


def test_rotated_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("short\n")
    assert read_tail(tmp_path / "log", since=1000) == ["short"]


def test_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 99 + b"\n" + b"\xff" * 1_000_000 + b"\nlast\n")
    assert read_tail(tmp_path / "log")[-1] == "last"
    assert sum(map(len, read_tail(tmp_path / "log"))) < 500_000


def test_server_errors() -> None:
    lines = [
        "2026-01-31T12:00:00,001 [ERROR] W-9000-maskrcnn_a org.pytorch.serve.wlm.WorkerThread - worker error",
        "2026-01-31T12:00:00,002 [WARN ] main org.pytorch.serve.ModelServer - a warning",
        "org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time",
    ]
    errors = server_errors(lines)
    assert [(error.version, error.message) for error in errors] == [("a", "worker error")]


def test_server_error_without_a_message_is_named_by_its_exception() -> None:
    lines = [
        "2026-01-31T12:00:00,001 [ERROR] epollEventLoopGroup-3-3 org.pytorch.serve.http.HttpRequestHandler - ",
        "java.lang.StringIndexOutOfBoundsException: String index out of range: 0",
        "\tat java.lang.String.charAt(String.java:1517) ~[?:?]",
    ]
    assert [(error.version, error.message) for error in server_errors(lines)] == [(None, lines[1])]


def test_worker_that_cannot_load_is_noticed_once_and_for_its_own_version(tmp_path: Path) -> None:
    log = tmp_path / "ts_log.log"
    assert not load_failed(tmp_path, "a_b.2")
    line = "2026-01-31T12:00:00,001 [WARN ] W-9001-maskrcnn_{} org.pytorch.serve.wlm.BatchAggregator - {}\n"
    log.write_text(line.format("a_b.2", "Sending response for jobId: 1"))
    assert not load_failed(tmp_path, "a_b.2")
    log.write_text(line.format("a_b.2", "Load model failed: maskrcnn, error: Worker died."))
    assert load_failed(tmp_path, "a_b.2")
    assert not load_failed(tmp_path, "a_b")
    assert not load_failed(tmp_path, "a_b.2", since=log_size(log))


class TestLastWords:
    """A worker's error reaches the log seconds after TorchServe has noted its end, or not before a second attempt."""

    ENDED = (
        "2026-01-31T12:00:00,001 [INFO ] {0} org.pytorch.serve.wlm.WorkerLifeCycle - Stopped Scanner - {0}\n"
    )

    def append(self, path: Path, text: str) -> None:
        with open(path, "a") as file:
            file.write(text)

    def test_words_that_come_late_are_waited_for(self, tmp_path: Path) -> None:
        mark = Mark.now(tmp_path)
        self.append(tmp_path / "ts_log.log", self.ENDED.format(OURS))  # the first attempt says nothing

        def second_attempt() -> None:
            self.append(tmp_path / "model_log.log", log_of(TWO_TRACEBACKS))
            self.append(tmp_path / "ts_log.log", self.ENDED.format(OURS))

        timer = threading.Timer(0.5, second_attempt)
        timer.start()
        assert last_words(tmp_path, "a_b.2", mark) == "safetensors_rust.SafetensorError: the cause"
        timer.join()

    def test_a_traceback_is_read_to_its_end(self, tmp_path: Path) -> None:
        """The error that counts may follow from an earlier one: words count once the output has ended."""
        self.append(tmp_path / "model_log.log", log_of(TWO_TRACEBACKS))
        mark = Mark(0, 0)
        assert last_words(tmp_path, "a_b.2", mark, patience=0.3) is not None, "but not for ever"
        late = [(OURS, "    raise"), (OURS, "OSError: what it came to")]

        def rest() -> None:
            self.append(tmp_path / "model_log.log", log_of(late))
            self.append(tmp_path / "ts_log.log", self.ENDED.format(OURS))

        timer = threading.Timer(0.5, rest)
        timer.start()
        assert last_words(tmp_path, "a_b.2", mark) == "OSError: what it came to"
        timer.join()

    def test_a_worker_that_never_gives_a_reason_is_not_waited_for(self, tmp_path: Path) -> None:
        lines = self.ENDED.format(OURS) * SILENT_ATTEMPTS + self.ENDED.format(OTHER)
        self.append(tmp_path / "ts_log.log", lines)
        assert last_words(tmp_path, "a_b.2", Mark(0, 0)) is None
