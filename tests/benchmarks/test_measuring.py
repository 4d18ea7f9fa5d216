import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.benchmarks import bench_batch, bench_predictor, floor, measuring
from tests.benchmarks.measuring import alternate, bar_chart, machine, save, summary, table


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds = alternate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warm_up=1
    )
    assert "".join(calls) == "ab" + "ababab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_a_call_is_timed_to_the_end_of_its_work_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("synchronized"))
    alternate({"a": lambda: done.append("called")}, repeats=2, warm_up=1)
    assert done == ["called", "synchronized"] * 3


def test_sigterm_lets_a_benchmark_stop_its_servers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    measuring.end_on_sigterm()
    try:
        with pytest.raises(SystemExit, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_machine_without_openvino_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "find_spec", lambda name: name != "openvino")
    assert set(machine()["versions"]) == {"torch", "torchvision"}


def test_too_few_photos_are_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_batch", "--photos", "19"])
    with pytest.raises(SystemExit):
        bench_batch.main()
    assert "--photos 19 is too few: a rate between the tenths needs 20 or more" in capsys.readouterr().err


def test_the_median_is_of_milliseconds() -> None:
    assert summary([0.001, 0.003, 0.002])["median_ms"] == pytest.approx(2.0)


def test_tables_and_charts_show_every_row(tmp_path: Path) -> None:
    rows = [
        {"model": "m", "who": "Detectron2", "median_ms": 250.0},
        {"model": "m", "who": "ours", "median_ms": 9.5},
    ]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["|", "model", "|", "who", "|", "median_ms", "|"]
    assert lines[3].split() == ["|", "m", "|", "ours", "|", "9.50", "|"]
    save(tmp_path, "bench", {"machine": machine(), "rows": rows}, table(rows))
    written = (tmp_path / "bench.json").read_text()
    assert json.loads(written)["rows"] == rows
    assert '{ "model": "m", "who": "ours", "median_ms": 9.5 }' in written.splitlines()[-3]
    bar_chart(tmp_path / "bench.png", rows, group="model", label="who", value="median_ms", title="t")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("native", "expected"), [(True, 5), (False, 3)])
def test_precisions_that_the_processor_emulates_are_not_measured(
    native: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "cpu_supports", lambda *names: native)
    names = bench_predictor.contestants("cpu", int8=True)
    assert len(names) == expected
    assert any("bf16" in name for name in names) is native
    assert "torch-bf16" in bench_predictor.contestants("cuda", int8=False)
