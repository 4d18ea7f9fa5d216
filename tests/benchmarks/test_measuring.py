import json
from pathlib import Path

import pytest

from tests.benchmarks import bench_predictor
from tests.benchmarks.measuring import alternate, bar_chart, machine, save, summary, table


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds = alternate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warm_up=1
    )
    assert "".join(calls) == "ab" + "ababab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


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
    monkeypatch.setattr(bench_predictor, "cpu_supports", lambda *names: native)
    names = bench_predictor.contestants("cpu", int8=True)
    assert len(names) == expected
    assert any("bf16" in name for name in names) is native
    assert "torch-bf16" in bench_predictor.contestants("cuda", int8=False)
