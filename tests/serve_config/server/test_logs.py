from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serve_config.server.logs import SILENT_ATTEMPTS, Attempt, read_tail, server_errors, worker_errors

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
STAMP = "2026-01-31T12:00:00,001"
ENDED = f"{STAMP} [INFO ] {{0}} org.pytorch.serve.wlm.WorkerLifeCycle - Stopped Scanner - {{0}}\n"


def log_of(lines: list[tuple[str, str]]) -> str:
    return "".join(f"{STAMP} [INFO ] {who} MODEL_LOG - {what}\n" for who, what in lines)


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


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


def test_rotated_log_is_read_from_its_beginning_and_a_long_one_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("short\n")
    assert read_tail(tmp_path / "log", since=1000) == ["short"]
    (tmp_path / "log").write_bytes(b"x" * 99 + b"\n" + b"\xff" * 1_000_000 + b"\nlast\n")
    assert read_tail(tmp_path / "log")[-1] == "last"
    assert sum(map(len, read_tail(tmp_path / "log"))) < 500_000


def test_server_errors() -> None:
    """One without a message is named by its exception, on the next line."""
    exception = "java.lang.StringIndexOutOfBoundsException: String index out of range: 0"
    lines = [
        f"{STAMP} [ERROR] W-9000-maskrcnn_a org.pytorch.serve.wlm.WorkerThread - worker error",
        f"{STAMP} [WARN ] main org.pytorch.serve.ModelServer - a warning",
        "org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time",
        f"{STAMP} [ERROR] epollEventLoopGroup-3-3 org.pytorch.serve.http.HttpRequestHandler - ",
        exception,
        "\tat java.lang.String.charAt(String.java:1517) ~[?:?]",
    ]
    errors = [(error.version, error.message) for error in server_errors(lines)]
    assert errors == [("a", "worker error"), (None, exception)]


def test_worker_that_cannot_load_is_noticed_once_and_for_its_own_version(tmp_path: Path) -> None:
    log, attempt, other = tmp_path / "ts_log.log", Attempt(tmp_path, "a_b.2"), Attempt(tmp_path, "a_b")
    assert not attempt.failed()
    line = f"{STAMP} [WARN ] W-9001-maskrcnn_a_b.2 org.pytorch.serve.wlm.BatchAggregator - "
    append(log, f"{line}Sending response for jobId: 1\n")
    assert not attempt.failed()
    append(log, f"{line}Load model failed: maskrcnn, error: Worker died.\n")
    assert attempt.failed()
    assert not other.failed()
    assert not Attempt(tmp_path, "a_b.2").failed(), "that was an earlier attempt"


class TestReason:
    """A worker's error reaches the log seconds after TorchServe has noted its end, or not before a second attempt."""

    def test_an_error_that_comes_late_is_waited_for(self, tmp_path: Path) -> None:
        append(
            tmp_path / "model_log.log",
            log_of([*TWO_TRACEBACKS[2:], (OURS, "OSError: of an earlier attempt")]),
        )
        attempt = Attempt(tmp_path, "a_b.2")
        append(tmp_path / "ts_log.log", ENDED.format(OURS))  # the first attempt says nothing

        def second_attempt() -> None:
            append(tmp_path / "model_log.log", log_of(TWO_TRACEBACKS))
            append(tmp_path / "ts_log.log", ENDED.format(OURS))

        timer = threading.Timer(0.5, second_attempt)
        timer.start()
        assert attempt.reason() == "safetensors_rust.SafetensorError: the cause"
        timer.join()

    def test_a_traceback_is_read_to_its_end(self, tmp_path: Path) -> None:
        """The error that counts may follow from an earlier one: it counts once the output has ended."""
        attempt = Attempt(tmp_path, "a_b.2")
        append(tmp_path / "model_log.log", log_of(TWO_TRACEBACKS))
        assert attempt.reason(patience=0.3) is not None, "but not for ever"

        def rest() -> None:
            lines = [(OURS, "    raise"), (OURS, "OSError: what it came to")]
            append(tmp_path / "model_log.log", log_of(lines))
            append(tmp_path / "ts_log.log", ENDED.format(OURS))

        timer = threading.Timer(0.5, rest)
        timer.start()
        assert attempt.reason() == "OSError: what it came to"
        timer.join()

    def test_a_worker_that_never_gives_a_reason_is_not_waited_for(self, tmp_path: Path) -> None:
        attempt = Attempt(tmp_path, "a_b.2")
        append(tmp_path / "ts_log.log", ENDED.format(OURS) * SILENT_ATTEMPTS + ENDED.format(OTHER))
        assert attempt.reason() is None
