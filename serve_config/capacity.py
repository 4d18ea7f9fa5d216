"""How long requests wait when they come at random: a queue of measured service times, simulated with SimPy.

One machine is a queue with some workers, as TorchServe has it: requests come as a Poisson process, the first come is
the first served, a full queue refuses. Several machines share the requests at random (what a load balancer without
knowledge does), so each is such a queue with its part of the rate: Poisson processes split into Poisson processes.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import simpy

from serve_config.errors import ServeError

REQUESTS = 40_000
"""Simulated a machine: the 95th percentile spreads by 2 % with the seed at 70 % utilisation, by 4 % at 85 %."""
WARM_UP = 0.1  # of the requests, while the queue fills
MOST_MACHINES = 100_000


@dataclass(frozen=True)
class Measured:
    """What a benchmark found on one machine; the JSON object ``capacity`` of its report has the same names.

    ``latency_ms`` are requests of a single client, ``saturated_rate`` the requests a second that the machine answers
    with more clients than workers, ``workers`` share its ``cores`` or have a GPU each (``gpus``).
    """

    latency_ms: Sequence[float]
    saturated_rate: float
    workers: int
    cores: int
    gpus: int = 0
    queue_size: int = 32
    model: str = ""
    machine: str = ""

    @property
    def cycle(self) -> float:
        """Seconds that a request occupies a worker, as saturation shows them."""
        return self.workers / self.saturated_rate

    def service_times(self) -> list[float]:
        """Seconds in a worker: the spread of a single client's requests about the mean that saturation shows."""
        mean = statistics.fmean(self.latency_ms)
        return [value / mean * self.cycle for value in self.latency_ms]

    @property
    def overhead(self) -> float:
        """Seconds of a request beyond the worker, where others can be served meanwhile."""
        return max(0.0, statistics.fmean(self.latency_ms) / 1000 - self.cycle)


@dataclass(frozen=True)
class Outcome:
    """Of one simulated machine: seconds from arrival to answer at the percentiles, and the part refused."""

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
        gaps: seconds between an arrival and the one before; it ends the simulation.
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
    """Gaps of a Poisson process, ``rate`` a second."""
    generator = random.Random(seed)  # noqa: S311, no secret
    return (generator.expovariate(rate) for _ in range(requests))


def resampled(values: Sequence[float], seed: int) -> Iterator[float]:
    """Endless draws from what was measured."""
    generator = random.Random(seed)  # noqa: S311
    while True:
        yield generator.choice(values)


def predict(measured: Measured, rate: float, *, requests: int = REQUESTS, seed: int = 0) -> Outcome:
    """What clients of one machine will see at ``rate`` requests a second."""
    services = resampled(measured.service_times(), seed + 1)
    found = simulate(poisson(rate, requests, seed), services, measured.workers, measured.queue_size)
    beyond = measured.overhead
    return Outcome(found.p50 + beyond, found.p95 + beyond, found.p99 + beyond, found.mean_wait, found.refused)


@dataclass(frozen=True)
class Plan:
    """So many machines, what they give, and what one fewer would give (None where one is enough)."""

    machines: int
    outcome: Outcome
    utilisation: float
    one_fewer: Outcome | None


def plan(measured: Measured, rate: float, p95: float, *, requests: int = REQUESTS) -> Plan:
    """The fewest machines like the measured one that answer 95 % of ``rate`` requests a second in ``p95`` seconds.

    A plan refuses nobody: at most 1 request in 1,000 may find the queue full.

    Raises:
        ServeError: one request alone takes longer already.
    """
    alone = sorted(measured.service_times())
    quickest = alone[min(len(alone) - 1, int(len(alone) * 0.95))] + measured.overhead
    if quickest > p95:
        raise ServeError(
            f"no number of machines helps: one request alone takes {quickest * 1000:.0f} ms at the 95th percentile, "
            f"and {p95 * 1000:.0f} are asked for; a smaller backbone, a smaller input or a faster machine does"
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
                f"more than {MOST_MACHINES:,} machines would be needed: look at the measured figures"
            )
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if good(middle) else (middle, enough)
    fewer = outcome(enough - 1) if enough > 1 else None
    return Plan(enough, outcome(enough), rate / enough / measured.saturated_rate, fewer)
