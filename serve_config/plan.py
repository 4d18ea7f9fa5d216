"""``maskrcnn serve plan``: how many machines a load needs, from what a benchmark measured on one.

A machine is simulated with SimPy as a queue of measured service times, as TorchServe has it: Poisson arrivals, first
come first served, a full queue refuses. Several machines share the requests at random, as a load balancer without
knowledge would; a Poisson process splits into Poisson processes, so each machine is one such queue at its share.
"""

from __future__ import annotations

import functools
import json
import math
import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import simpy

from serve_config.errors import ServeError
from serve_config.server.properties import QUEUE_SIZE

REQUESTS = 40_000
"""Simulated per machine. The 95th percentile varies with the seed by 2 % at 70 % utilization, by 4 % at 85 %."""
WARM_UP = 0.1  # of the requests, while the queue fills
MOST_MACHINES = 100_000


@dataclass(frozen=True)
class Measured:
    """What a benchmark measured on one machine; the JSON object ``capacity`` of its report has the same names.

    ``latency_ms`` are the requests of a single client; ``saturated_rate`` is the requests a second with more clients
    than workers; the ``workers`` share the machine's ``cores``, or have a GPU each (``gpus``).
    """

    latency_ms: Sequence[float]
    saturated_rate: float
    workers: int
    cores: int
    gpus: int = 0
    queue_size: int = QUEUE_SIZE
    model: str = ""
    machine: str = ""

    @property
    def cycle(self) -> float:
        """Seconds that a request occupies a worker, from the rate at saturation."""
        return self.workers / self.saturated_rate

    def service_times(self) -> list[float]:
        """Seconds in a worker: a single client's latencies, scaled to the mean at saturation."""
        mean = statistics.fmean(self.latency_ms)
        return [value / mean * self.cycle for value in self.latency_ms]

    @property
    def overhead(self) -> float:
        """Seconds of a request outside the worker, which can serve others meanwhile."""
        return max(0.0, statistics.fmean(self.latency_ms) / 1000 - self.cycle)


@dataclass(frozen=True)
class Outcome:
    """One simulated machine: seconds from arrival to answer at three percentiles, and the share refused."""

    p50: float
    p95: float
    p99: float
    mean_wait: float
    refused: float


def simulate(
    gaps: Iterable[float], services: Iterator[float], workers: int, queue_size: float = math.inf
) -> Outcome:
    """Run requests through one machine's queue.

    Args:
        gaps: seconds between one arrival and the next; the simulation ends with it.
        services: seconds in a worker, one for each request that is not refused.
        queue_size: requests that may wait; one more is refused.
    """
    environment = simpy.Environment()
    pool = simpy.Resource(environment, capacity=workers)
    waits: list[float] = []
    totals: list[float] = []
    refused = 0

    def request() -> Iterator[simpy.Event]:
        came = environment.now
        with pool.request() as turn:
            yield turn
            waits.append(environment.now - came)
            yield environment.timeout(next(services))
        totals.append(environment.now - came)

    def arrivals() -> Iterator[simpy.Event]:
        nonlocal refused
        for gap in gaps:
            yield environment.timeout(gap)
            if len(pool.queue) >= queue_size:
                refused += 1
            else:
                environment.process(request())

    environment.process(arrivals())
    environment.run()
    skipped = int(len(totals) * WARM_UP)
    kept = sorted(totals[skipped:])
    p50, p95, p99 = (kept[min(len(kept) - 1, int(len(kept) * q))] for q in (0.5, 0.95, 0.99))
    return Outcome(p50, p95, p99, statistics.fmean(waits[skipped:]), refused / (refused + len(totals)))


def poisson(rate: float, requests: int, seed: int) -> Iterator[float]:
    """The gaps in seconds of a Poisson process of ``rate`` requests a second."""
    generator = random.Random(seed)  # noqa: S311, no secret
    return (generator.expovariate(rate) for _ in range(requests))


def resampled(values: Sequence[float], seed: int) -> Iterator[float]:
    """Draw from the measured values without end."""
    generator = random.Random(seed)  # noqa: S311
    while True:
        yield generator.choice(values)


def predict(measured: Measured, rate: float, *, requests: int = REQUESTS, seed: int = 0) -> Outcome:
    """What the clients of one machine see at ``rate`` requests a second."""
    services = resampled(measured.service_times(), seed + 1)
    found = simulate(poisson(rate, requests, seed), services, measured.workers, measured.queue_size)
    beyond = measured.overhead
    return Outcome(found.p50 + beyond, found.p95 + beyond, found.p99 + beyond, found.mean_wait, found.refused)


@dataclass(frozen=True)
class Plan:
    """The number of machines, their outcome, and that of one machine fewer (None where one is enough)."""

    machines: int
    outcome: Outcome
    utilization: float
    one_fewer: Outcome | None


def plan(measured: Measured, rate: float, p95: float, *, requests: int = REQUESTS) -> Plan:
    """The fewest machines like the measured one that answer 95 % of ``rate`` requests a second in ``p95`` seconds.

    At most 1 request in 1,000 may find the queue full.

    Raises:
        ServeError: one request takes longer, or an argument is not a number above 0.
    """
    if not (_positive(rate) and _positive(p95)):
        raise ServeError("the rate and the time must be numbers above 0")
    alone = sorted(measured.service_times())
    quickest = alone[min(len(alone) - 1, int(len(alone) * 0.95))] + measured.overhead
    if quickest > p95:
        raise ServeError(
            f"no number of machines helps: one request takes {quickest * 1000:.0f} ms at the 95th percentile, "
            f"more than the {p95 * 1000:.0f} asked for: choose a smaller backbone, a smaller input or a faster machine"
        )

    @functools.cache
    def outcome(machines: int) -> Outcome:
        return predict(measured, rate / machines, requests=requests)

    def good(machines: int) -> bool:
        return outcome(machines).p95 <= p95 and outcome(machines).refused <= 0.001

    enough = max(1, math.ceil(rate / measured.saturated_rate))
    too_few = enough - 1
    while not good(enough):
        too_few, enough = enough, math.ceil(enough * 1.5)
        if enough > MOST_MACHINES:
            raise ServeError(
                f"more than {MOST_MACHINES:,} machines would be needed: check the measured figures"
            )
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if good(middle) else (middle, enough)
    fewer = outcome(enough - 1) if enough > 1 else None
    return Plan(enough, outcome(enough), rate / enough / measured.saturated_rate, fewer)


def read_measured(path: Path) -> Measured:
    """Read the object ``capacity`` of a benchmark's report. Raises ServeError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ServeError(
            f"{path} cannot be read ({error.strerror}): measure this machine with `make bench`, or name another report "
            "with --bench"
        ) from error
    except ValueError as error:
        raise ServeError(f"{path} is not JSON ({error}): measure again with `make bench`") from error
    given = document.get("capacity") if isinstance(document, dict) else None
    names = {field.name for field in fields(Measured)}
    if (
        not isinstance(given, dict)
        or not {"latency_ms", "saturated_rate", "workers", "cores"} <= given.keys() <= names
    ):
        raise ServeError(f"{path} has no complete object `capacity`: measure again with `make bench`")
    measured = Measured(**given)
    numbers = [*measured.latency_ms, measured.saturated_rate, measured.workers, measured.cores]
    if len(measured.latency_ms) < 10 or not all(_positive(number) for number in numbers):
        raise ServeError(f"{path}: `capacity` needs 10 latencies or more, and numbers above 0")
    return measured


def _positive(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and number > 0


def as_text(measured: Measured, plan: Plan, rate: float, p95: float) -> str:
    """The plan for a person to read; ``p95`` in seconds."""
    units, each = ("GPU(s)", measured.gpus) if measured.gpus else ("cores", measured.cores)
    parts = f"{measured.workers} worker(s) on {each} {units}"
    total = f"{plan.machines * measured.workers} workers, {plan.machines * each} {units}"
    lines = [
        f"measured   {measured.model or 'a model'} on {measured.machine or 'a machine'}: {parts}, "
        f"{measured.saturated_rate:.2f} requests a second at most",
        f"asked      {rate:g} requests a second, 95 % of them within {p95 * 1000:g} ms",
        f"needed     {plan.machines} such machine(s): {total}, busy {plan.utilization:.0%} of the time",
        f"predicted  {_outcome(plan.outcome)}",
    ]
    if plan.one_fewer:
        lines.append(f"one fewer  {_outcome(plan.one_fewer)}")
    lines.append(
        "           (random arrivals, each sent to a random machine, with images like the benchmark's)"
    )
    return "\n".join(lines)


def _outcome(outcome: Outcome) -> str:
    times = ", ".join(f"{name} {getattr(outcome, name) * 1000:.0f} ms" for name in ("p50", "p95", "p99"))
    return f"{times}, refused {outcome.refused:.1%}"


def as_json(measured: Measured, plan: Plan) -> str:
    """The plan as JSON, times in seconds, with totals."""
    totals = {name: plan.machines * getattr(measured, name) for name in ("workers", "cores", "gpus")}
    return json.dumps({**asdict(plan), **totals}, indent=2)
