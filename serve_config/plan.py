"""``python -m serve_config plan``: how many machines, from what a benchmark measured on one."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from serve_config.capacity import Measured, Outcome, Plan
from serve_config.errors import ServeError


def read_measured(path: Path) -> Measured:
    """The object ``capacity`` of a benchmark's report. Raises ServeError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ServeError(
            f"there are no measured figures at {path} ({error.strerror}): `make bench` measures this machine, or name "
            "another report with --bench"
        ) from error
    except ValueError as error:
        raise ServeError(f"{path} is not JSON ({error}): measure again with `make bench`") from error
    given = document.get("capacity") if isinstance(document, dict) else None
    names = {field.name for field in fields(Measured)}
    if (
        not isinstance(given, dict)
        or not {"latency_ms", "saturated_rate", "workers", "cores"} <= given.keys() <= names
    ):
        raise ServeError(f"{path} has no object `capacity` as plan reads it: measure again with `make bench`")
    measured = Measured(**given)
    numbers = [*measured.latency_ms, measured.saturated_rate, measured.workers, measured.cores]
    if len(measured.latency_ms) < 10 or not all(_positive(number) for number in numbers):
        raise ServeError(f"{path}: `capacity` needs 10 latencies or more, and numbers above 0")
    return measured


def _positive(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and number > 0


def as_text(measured: Measured, plan: Plan, rate: float, p95: float) -> str:
    """What the user reads; ``p95`` in seconds."""
    units, each = ("GPU(s)", measured.gpus) if measured.gpus else ("cores", measured.cores)
    parts = f"{measured.workers} worker(s) on {each} {units}"
    total = f"{plan.machines * measured.workers} workers, {plan.machines * each} {units}"
    lines = [
        f"measured   {measured.model or 'a model'} on {measured.machine or 'a machine'}: {parts}, "
        f"{measured.saturated_rate:.2f} requests a second at most",
        f"asked      {rate:g} requests a second, 95 % of them within {p95 * 1000:g} ms",
        f"needed     {plan.machines} such machine(s): {total}, busy {plan.utilisation:.0%} of the time",
        f"predicted  {_outcome(plan.outcome)}",
    ]
    if plan.one_fewer:
        lines.append(f"one fewer  {_outcome(plan.one_fewer)}")
    lines.append("           (requests at random, machines chosen at random, the pictures of the benchmark)")
    return "\n".join(lines)


def _outcome(outcome: Outcome) -> str:
    times = ", ".join(f"{name} {getattr(outcome, name) * 1000:.0f} ms" for name in ("p50", "p95", "p99"))
    return f"{times}, refused {outcome.refused:.1%}"


def as_json(measured: Measured, plan: Plan) -> str:
    """For programs: seconds, and totals."""
    totals = {name: plan.machines * getattr(measured, name) for name in ("workers", "cores", "gpus")}
    return json.dumps({**asdict(plan), **totals}, indent=2)
