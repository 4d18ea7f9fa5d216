"""``maskrcnn serve plan``: the simulation against queueing theory, and against a TorchServe under load."""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from maskrcnn import run
from serve_config import plan as plan_module
from serve_config.cli import serve
from serve_config.errors import ServeError
from serve_config.plan import Measured, as_text, plan, poisson, predict, read_measured, simulate
from tests.torchserve_fixture import running_torchserve, toy_archive

REQUESTS = 40_000
FEW = 8_000  # for the tests of the search, not of its precision


def exponential(mean: float, seed: int = 9) -> Iterator[float]:
    generator = random.Random(seed)
    return (generator.expovariate(1 / mean) for _ in itertools.count())


def erlang_c(workers: int, load: float) -> float:
    """The chance to wait in M/M/c, ``load`` in Erlang (Erlang 1917)."""
    terms = [load**k / math.factorial(k) for k in range(workers)]
    last = load**workers / math.factorial(workers) * workers / (workers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("workers", "utilization"), [(1, 0.5), (3, 0.6), (8, 0.7)])
def test_m_m_c(workers: int, utilization: float) -> None:
    """Poisson arrivals, exponential service of 1 s: mean wait C / (c - a) by Erlang's formula."""
    load = workers * utilization
    runs = [
        simulate(poisson(load, REQUESTS, seed), exponential(1.0, 100 + seed), workers) for seed in range(3)
    ]
    wait = statistics.fmean(run.mean_wait for run in runs)  # of one run, it spreads by 5 to 9 %
    assert wait == pytest.approx(erlang_c(workers, load) / (workers - load), rel=0.1)
    if workers == 1:  # then the whole time is exponential, too
        for quantile, value in ((0.5, runs[0].p50), (0.95, runs[0].p95)):
            assert value == pytest.approx(-math.log(1 - quantile) / (1 - load), rel=0.08)


def test_the_same_waits_as_by_hand() -> None:
    """Request by request, at a high load: each goes to the worker that is free first (Kiefer and Wolfowitz 1955)."""
    now, waits, free = 0.0, [], [0.0] * 4
    for gap, service in zip(poisson(3.8, 20_000, seed=7), exponential(1.0), strict=False):
        now += gap
        begins = max(now, heapq.heappop(free))
        heapq.heappush(free, begins + service)
        waits.append(begins - now)
    found = simulate(poisson(3.8, 20_000, seed=7), exponential(1.0), 4)
    assert found.mean_wait == pytest.approx(statistics.fmean(waits[2000:]))


@pytest.mark.parametrize("utilization", [0.4, 0.8])
def test_m_d_1(utilization: float) -> None:
    """Poisson arrivals, a service of exactly 1 s: mean wait ρ / (2 (1 - ρ)) (Pollaczek and Khinchine)."""
    found = simulate(poisson(utilization, REQUESTS, seed=2), itertools.repeat(1.0), 1)
    assert found.mean_wait == pytest.approx(utilization / (2 * (1 - utilization)), rel=0.05)


def test_m_m_1_k() -> None:
    """One worker and room for three to wait: the part refused is (1 - ρ) ρ^K / (1 - ρ^(K+1)), K = 4."""
    found = simulate(poisson(0.9, REQUESTS, seed=3), exponential(1.0), 1, queue_size=3)
    assert found.refused == pytest.approx(0.1 * 0.9**4 / (1 - 0.9**5), rel=0.05)


def constant(milliseconds: float = 200.0, workers: int = 1) -> Measured:
    rate = workers * 1000 / milliseconds
    return Measured([milliseconds] * 20, rate, workers=workers, cores=2, model="toy", machine="two cores")


def test_plan_is_the_fewest_that_do() -> None:
    measured = constant()
    found = plan(measured, rate=40, p95=0.6, requests=FEW)
    assert found.outcome.p95 <= 0.6
    assert found.one_fewer is not None
    assert found.one_fewer.p95 > 0.6
    assert found.machines > 40 / 5, "the work alone needs that many"
    assert found.utilization == pytest.approx(40 / found.machines / 5)
    assert plan(measured, rate=0.1, p95=0.6, requests=FEW).machines == 1
    assert plan(measured, rate=400, p95=0.6, requests=FEW).machines == pytest.approx(
        10 * found.machines, rel=0.1
    )


def test_a_shared_queue_needs_fewer() -> None:
    alone, four = (plan(constant(workers=n), 40, 0.6, requests=FEW) for n in (1, 4))
    assert four.machines * 4 < alone.machines


def test_what_saturation_shows_counts() -> None:
    """A worker that needs 100 of a request's 150 ms: the rest adds to the latency and occupies nobody."""
    measured = Measured([150.0] * 20, 10.0, workers=1, cores=2)
    assert measured.overhead == pytest.approx(0.05)
    assert measured.service_times() == pytest.approx([0.1] * 20)
    assert predict(measured, 0.01, requests=200).p50 == pytest.approx(0.15)


def test_unreachable() -> None:
    with pytest.raises(ServeError, match="no number of machines"):
        plan(constant(200), 10, 0.15)


def write(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({"rows": [], "capacity": asdict(constant()) | changes}))
    return path


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan_module.plan.__kwdefaults__, "requests", FEW)
    bench = write(tmp_path / "bench.json")
    arguments = ["plan", "--rate", "20", "--p95", "500", "--bench", str(bench)]
    assert run(serve, "serve", arguments) == 0
    text = capsys.readouterr().out
    assert text == as_text(constant(), plan(constant(), 20, 0.5), 20, 0.5) + "\n"
    assert "one fewer" in text
    assert run(serve, "serve", [*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cores"] == 2 * found["machines"] == 2 * found["workers"]


@pytest.mark.parametrize("rate", ["inf", "nan", "0", "-1", "x"])
def test_a_rate_that_is_none(tmp_path: Path, rate: str) -> None:
    bench = str(write(tmp_path / "bench.json"))
    assert run(serve, "serve", ["plan", f"--rate={rate}", "--p95", "500", "--bench", bench]) in (1, 2)


@pytest.mark.parametrize(
    "changes", [{"latency_ms": [1.0]}, {"saturated_rate": 0}, {"colour": "red"}, {"cores": None}]
)
def test_figures_that_are_none(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ServeError, match="capacity"):
        read_measured(write(tmp_path / "bench.json", **changes))
    with pytest.raises(ServeError, match="make bench"):
        read_measured(tmp_path / "none.json")


@pytest.mark.slow
@pytest.mark.e2e
def test_prediction_for_a_torchserve_under_load(tmp_path: Path) -> None:
    """Two workers that take 50 to 150 ms, measured as the benchmark does, then 60 % busy: p50 and p95 within 20 %."""
    yaml = "minWorkers: 2\nmaxWorkers: 2\n"
    naps = [0.05 + 0.1 * i / 39 for i in range(40)]
    random.Random(4).shuffle(naps)
    with running_torchserve(tmp_path, [toy_archive(tmp_path, "naps", yaml=yaml)]) as server:

        def ask(nap: float) -> float:
            start = time.perf_counter()
            body = f"sleep:{nap}"
            reply = server.client.request("inference", "POST", "/predictions/maskrcnn", data=body, timeout=60)
            assert reply.ok, reply.text
            return time.perf_counter() - start

        ask(0.1)  # the first is slower
        alone = [ask(nap) for nap in naps]
        with ThreadPoolExecutor(8) as pool:
            begun = time.perf_counter()
            list(pool.map(ask, naps * 3))
            saturated = len(naps * 3) / (time.perf_counter() - begun)
            measured = Measured([s * 1000 for s in alone], saturated, workers=2, cores=2, queue_size=32)
            rate, seconds, requests = 0.6 * saturated, [0.0] * 600, 600
            threads = []
            clock = time.perf_counter()
            for i, gap in enumerate(poisson(rate, requests, seed=5)):
                clock += gap
                time.sleep(max(0.0, clock - time.perf_counter()))
                nap = naps[i % len(naps)]

                def one(i: int = i, nap: float = nap) -> None:
                    seconds[i] = ask(nap)

                threads.append(threading.Thread(target=one))
                threads[-1].start()
            for thread in threads:
                thread.join()
    # the very arrivals that were sent, and the measured times in their order: what differs is not chance
    services = itertools.cycle(measured.service_times())
    same = simulate(poisson(rate, requests, seed=5), services, 2, 32)
    found = sorted(seconds[int(requests * plan_module.WARM_UP) :])
    p50, p95 = (found[int(len(found) * q)] for q in (0.5, 0.95))
    print(f"p50 {p50:.3f} s, predicted {same.p50 + measured.overhead:.3f}")
    print(f"p95 {p95:.3f} s, predicted {same.p95 + measured.overhead:.3f}")
    assert same.p50 + measured.overhead == pytest.approx(p50, rel=0.2)
    assert same.p95 + measured.overhead == pytest.approx(p95, rel=0.2)
    assert statistics.fmean(alone) == pytest.approx(0.1, abs=0.03)
