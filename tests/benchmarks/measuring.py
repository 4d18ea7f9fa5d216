"""Helpers of the benchmarks: fair timing, the machine, tables, a chart."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from finetune.checkpoints.run import Run
from finetune.training.machine import describe_machine
from tests.toy_models import write_run

PACKAGES = ("torch", "torchvision", "openvino")  # a GPU machine may lack the last
FEWEST = 3  # timed calls
AT_800 = {"MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333}


def write_run_at_800(folder: Path, backbone: str, trained: Path | None = None) -> Path:
    """A run folder whose photos are resized to 800 pixels.

    Args:
        backbone: of a random model that finds about ten objects, where ``trained`` is None.
        trained: a run folder or a published checkpoint; it is not changed.
    """
    if trained is None:
        size = [str(word) for key, pixels in AT_800.items() for word in (f"INPUT.{key}", pixels)]
        write_run(folder, backbone, size, detections=10)
        return folder
    source = Run.open(trained)
    folder.mkdir()
    shutil.copyfile(source.weights, folder / "model_best.safetensors")
    config = source.recorded_config
    config["INPUT"] |= AT_800
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(source.record), encoding="utf-8")
    return folder


def argument_parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """The parser of a benchmark, with ``--output``, the folder of its report."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(output), help="folder (default: %(default)s)")
    return parser


def end_on_sigterm() -> None:
    """Let SIGTERM leave the program as an error does, so that no server is left running."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def maskrcnn(*words: str | Path, launcher: tuple[str, ...] = ("-m", "maskrcnn")) -> None:
    """Run our command line in a process of its own; raises with its error where it fails."""
    command = [sys.executable, *launcher, *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"{words[:2]}: {run.stderr[-1500:]}"


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warm_up: int = 3,
    limit: float = math.inf,
) -> dict[str, list[float]]:
    """Seconds of each call, to the end of its work on a GPU. The contestants take turns: other load slows all alike.

    After ``limit`` seconds of timed calls it ends, but not before each was timed ``FEWEST`` times.
    """
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for call in contestants.values():
        for _ in range(warm_up):
            call()
            synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    begun = time.perf_counter()
    for done in range(repeats):
        if done >= FEWEST and time.perf_counter() - begun > limit:
            break
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds."""
    low, median, high = statistics.quantiles(seconds, n=4)
    return {
        "median_ms": median * 1e3,
        "quartile1_ms": low * 1e3,
        "quartile3_ms": high * 1e3,
        "runs": len(seconds),
    }


def machine() -> dict[str, Any]:
    """The processor, its cores and the versions that a report states."""
    units = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni")
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return {
        "processor": describe_machine("cpu").rpartition(", ")[0],
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "matrix_units": [name for name in units if torch.cpu.get_capabilities().get(name)],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if find_spec(name)},
        "load_before": os.getloadavg()[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe(where: dict[str, Any]) -> str:
    """A machine in words."""
    units = ", ".join(where["matrix_units"]) or "no matrix units"
    return where["gpu"] or f"{where['processor']}, {where['cores']} cores ({units})"


def kind_of(where: dict[str, Any]) -> str:
    """The kind of a machine's processor, as a file name."""
    return re.sub(r"[^a-z0-9]+", "_", describe(where).lower()).strip("_")


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table; columns are the keys of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def save(output: Path, name: str, content: Mapping[str, Any], text: str) -> None:
    """Write ``NAME.json``, a row per line, and ``NAME.md`` into ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(row_per_line(content), encoding="utf-8")
    (output / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def row_per_line(content: Mapping[str, Any]) -> str:
    """JSON in which each list of numbers or words, and each object that holds no other, takes one line."""
    text = json.dumps(content, indent=2)
    # a line break is always layout: in a string, JSON writes it as \\n
    return re.sub(r"[{\[][^{}\[\]]+[}\]]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text) + "\n"


def bar_chart(
    path: Path, rows: Sequence[Mapping[str, Any]], *, group: str, label: str, value: str, title: str
) -> None:
    """Horizontal bars of ``row[value]``, one panel per ``row[group]``, one scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = list(dict.fromkeys(row[group] for row in rows))
    heights = [sum(row[group] == g for row in rows) for g in groups]
    figure, axes = pyplot.subplots(
        len(groups),
        1,
        figsize=(8, 0.34 * sum(heights) + 0.6 * len(groups) + 0.6),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, name in zip(axes[:, 0], groups, strict=True):
        chosen = [row for row in rows if row[group] == name]
        colors = ["#1f77b4" if row[label].startswith("ours") else "#9aa0a6" for row in chosen]
        bars = axis.barh([row[label] for row in chosen], [row[value] for row in chosen], color=colors)
        axis.bar_label(
            bars, fmt=lambda number: f"{number:.{0 if number >= 10 else 2}f}", padding=3, fontsize=8
        )
        axis.invert_yaxis()
        axis.set_title(name, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.1)
    axes[-1, 0].set_xlabel(value.replace("_", " "))
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
