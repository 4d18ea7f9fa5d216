"""Find the fastest setting of a trained model on this machine that keeps its AP.

All combinations would take hours. Each step varies one thing, from the fastest setting so far that keeps the AP:

1. proposals, then the short side, in the precision that an archive takes by default: they decide most of the time;
2. precision: int8 is calibrated for one input size, so it comes after the size;
3. workers × threads, for throughput alone: they change no result, and a single request is fastest with all cores.

A setting is measured as it would be served, by the code of the archive that ``maskrcnn export`` makes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from tqdm import tqdm

from finetune.checkpoints.run import Run
from finetune.data.dataset import class_names, load_split, read_card
from finetune.errors import UserError
from finetune.evaluation.coco_eval import match, summarize
from finetune.evaluation.operating_point import OperatingPoint, read_point
from finetune.evaluation.plots import draw_ap_against_time
from finetune.export import archive
from finetune.export.served import add_int8, load_truth, predict_staged, remove_int8
from finetune.files import read_json, sha256_of, write_json
from finetune.training.machine import describe_machine

PROPOSALS = (300, 100, 50)
SHORT_SIDES = (7 / 8, 3 / 4, 5 / 8, 1 / 2)  # of the run's own, rounded to multiples of 32 pixels
SECONDS = 10.0  # of timing, after a pass over all photos for the AP


@dataclass(frozen=True)
class Setting:
    """What is varied; ``precision`` is the handler's key, ``threads`` are those of one worker (None: all cores)."""

    short_side: int
    proposals: int
    precision: str = "auto"
    workers: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class Measurement:
    """A setting on the val split of this machine: what it ran in, how fast and how well."""

    setting: Setting
    precision: str
    device: str
    threads: int
    ms: float  # a request from JPEG to JSON, inside a worker while all are busy: mean of the photos' lower quartiles
    ap: float  # of masks, 0..100
    found: int  # objects, at the operating point and a mask IoU of 0.5

    def __str__(self) -> str:
        size = f"{self.setting.short_side} px, {self.setting.proposals} proposals"
        return f"{size}, {self.precision}, {self.setting.workers} × {self.threads} threads"

    def cost(self, goal: str) -> float:
        """What the goal wants low: milliseconds of a request, or from one photo to the next of all workers."""
        return self.ms if goal == "latency" else self.ms / self.setting.workers


class Bench:
    """Measures a run's settings. ``tuned.json`` keeps the results, for the same weights, machine, photos and point."""

    def __init__(self, run: Run, data: Path, work: Path) -> None:
        self.run, self.data, self.work = run, data, work
        self.records, self.truth = load_truth(run, data, "val")
        self.point = read_point(run) or OperatingPoint()
        self.file = run.beside("tuned.json")
        self.document: dict[str, Any] = {
            "weights_sha256": run.measured_with["weights_sha256"],
            "machine": describe_machine(run.config.MODEL.DEVICE),
            "data": read_card(data).get("name"),
            "val_sha256": sha256_of(data / "val.json"),
            "operating_point": self.point.to_json(),
        }
        earlier = read_json(self.file, cure="remove it, and tune again") if self.file.is_file() else {}
        same = isinstance(earlier, dict) and earlier.items() >= self.document.items()
        self.document["measurements"] = earlier.get("measurements", []) if same else []

    @cached_property
    def staged(self) -> Path:
        """The run as an archive; each measurement changes its configs."""
        card, staged = {"operating_point": self.point.to_json()}, self.work / "staged"
        archive.stage(self.run, self.run.backbone, archive.Options(), card, staged)
        return staged

    def measure(self, setting: Setting) -> Measurement:
        """Measure a setting, unless that was done before."""
        for known in self.document["measurements"]:
            if known["setting"] == asdict(setting):
                return Measurement(**known | {"setting": setting})
        self._configure(setting)

        def predict(worker: int) -> dict[str, Any]:
            return predict_staged(self.staged, self.records, str(SECONDS), name=str(worker))

        with ThreadPoolExecutor(setting.workers) as pool:
            answers = list(pool.map(predict, range(setting.workers)))
        results = answers[0]["results"]
        shown = self.point.shown(results, class_names(self.data))
        rounds = np.concatenate([answer["milliseconds"] for answer in answers])  # (rounds, photos)
        measured = Measurement(
            setting,
            **{key: answers[0][key] for key in ("precision", "device", "threads")},
            # other programs only ever slow a request down: not the mean of a photo's times, nor the median
            ms=round(float(np.percentile(rounds, 25, axis=0).mean()), 1),
            ap=summarize(match(self.truth, results, "segm")[0])["AP"],
            found=sum(int(matches.found[0].sum()) for matches in match(self.truth, shown, "segm")[0][""]),
        )
        self.document["measurements"].append(asdict(measured))
        write_json(self.file, self.document)
        return measured

    def _configure(self, setting: Setting) -> None:
        archive.write_config(Run.open(self.run.path, overrides(self.run, setting)), self.staged)
        handler = {"precision": setting.precision, "threads": setting.threads}
        write_json(self.staged / "model-config.yaml", {"handler": handler})  # JSON is YAML
        remove_int8(self.staged)  # with it, auto would be int8
        if setting.precision == "int8":
            add_int8(self.staged, load_split(self.data, "train"), "fp32")


def overrides(run: Run, setting: Setting) -> list[str]:
    """``KEY VALUE …`` for the run's config; the long side changes with the short side."""
    own = run.recorded_config["INPUT"]
    long_side = round(setting.short_side * own["MAX_SIZE_TEST"] / own["MIN_SIZE_TEST"])
    sizes = f"INPUT.MIN_SIZE_TEST {setting.short_side} INPUT.MAX_SIZE_TEST {long_side}"
    return f"{sizes} MODEL.RPN.POST_NMS_TOPK_TEST {setting.proposals}".split()


def choose(measured: Sequence[Measurement], goal: str, tolerance: float) -> Measurement:
    """The fastest that loses at most ``tolerance`` points of AP and one found object, compared with the first."""
    own = measured[0]
    kept = [m for m in measured if own.ap - m.ap <= tolerance and own.found - m.found <= 1]
    return min([own, *kept], key=lambda m: m.cost(goal))  # a tolerance of NaN leaves the first


def pareto_front(measured: Sequence[Measurement], goal: str) -> list[Measurement]:
    """The settings that no other beats in both speed and AP, the fastest first."""
    front: list[Measurement] = []
    for one in sorted(measured, key=lambda m: (m.cost(goal), -m.ap)):
        if not front or one.ap > front[-1].ap:
            front.append(one)
    return front


def explore(
    measure: Callable[[Setting], Measurement], own: Setting, goal: str, tolerance: float
) -> list[Measurement]:
    """Measure step by step, as the module says; ``own`` comes first."""
    measured = [measure(own)]
    default, on_cpu, cores = measured[0].precision, measured[0].device == "cpu", measured[0].threads

    def add(settings: Iterable[Setting]) -> Setting:
        """Measure, and return the best of all so far. What fails here, such as int8, is left out."""
        for setting in settings:
            try:
                measured.append(measure(setting))
            except UserError as error:
                click.echo(f"{setting} is left out: {error.message}", err=True)
        return choose(measured, goal, tolerance).setting

    best = add(replace(own, proposals=count) for count in PROPOSALS if count < own.proposals)
    sides = {32 * round(share * own.short_side / 32) for share in SHORT_SIDES} - {own.short_side}
    best = add(replace(best, short_side=side) for side in sorted(sides, reverse=True))
    others = [name for name, useful in (("fp32", default != "fp32"), ("int8", on_cpu)) if useful]
    best = add(replace(best, precision=name) for name in others)
    workers = 2
    # each worker costs memory: stop where more of them do not help
    while goal == "throughput" and on_cpu and workers <= cores and best.workers == workers // 2:
        best = add([replace(best, workers=workers, threads=cores // workers)])
        workers *= 2
    return measured


def tune(path: Path, data: Path, *, tolerance: float, goal: str) -> tuple[list[list[Any]], Path]:
    """Write ``tuned.json`` and ``tuned.png`` into a run's folder, or beside a checkpoint.

    Args:
        tolerance: points of mask AP on val that may be lost against the run's own setting.
        goal: ``latency`` or ``throughput``.

    Returns:
        The table of all settings, head first, and the path of ``tuned.json``.

    Raises:
        UserError: the data do not fit the run, or its own setting cannot be measured.
    """
    run = Run.open(path)
    if (busy := psutil.cpu_percent(interval=1)) > 20:
        click.echo(f"other programs keep {busy:.0f} % of this machine busy: the times will be off", err=True)
    own = Setting(run.config.INPUT.MIN_SIZE_TEST, run.config.MODEL.RPN.POST_NMS_TOPK_TEST)
    most = 3 + len(PROPOSALS) + len(SHORT_SIDES)
    with (
        tempfile.TemporaryDirectory(prefix="maskrcnn-tune-") as work,
        tqdm(total=most, unit="setting", disable=None, dynamic_ncols=True) as bar,
    ):
        bench = Bench(run, data, Path(work))

        def measure(setting: Setting) -> Measurement:
            measured = bench.measure(setting)
            bar.write(f"{measured}: {measured.ms:.0f} ms, mask AP {measured.ap:.1f}", file=sys.stderr)
            bar.update()
            return measured

        measured = explore(measure, own, goal, tolerance)
    chosen, front = choose(measured, goal, tolerance), pareto_front(measured, goal)
    where = f"val of {bench.document['data']}, {bench.document['machine']}"
    bench.document["chosen"] = {
        "summary": str(chosen),
        "where": where,
        "overrides": [] if chosen is measured[0] else overrides(run, chosen.setting),
        "precision": chosen.setting.precision,
        "workers": chosen.setting.workers if goal == "throughput" else None,
        "for": goal,
        "tolerance": tolerance,
        "measured": asdict(chosen),
        "untuned": asdict(measured[0]),
    }
    write_json(bench.file, bench.document)
    title, picture = f"{run.name} on {where}", bench.file.with_suffix(".png")
    marks = dict.fromkeys(measured, "") | dict.fromkeys(front, "front")
    marks |= {measured[0]: "as trained", chosen: "chosen"}
    points = [(m.cost(goal), m.ap, None, mark and f"{mark}: {m}") for m, mark in marks.items()]
    steps, lowest = [(m.cost(goal), m.ap) for m in front], measured[0].ap - tolerance
    draw_ap_against_time(points, title, "mask AP (%)", picture, front=steps, lowest=lowest)
    return table_of(marks, goal), bench.file


def table_of(marks: dict[Measurement, str], goal: str) -> list[list[Any]]:
    """The measurements with their marks, the fastest first, below a head."""
    table: list[list[Any]] = [
        "short side,proposals,precision,workers × threads,ms,photos/s,mask AP,found,".split(",")
    ]
    for m, mark in sorted(marks.items(), key=lambda item: item[0].cost(goal)):
        row = [m.setting.short_side, m.setting.proposals, m.precision, f"{m.setting.workers} × {m.threads}"]
        row += [f"{m.ms:.0f}", f"{1e3 / m.cost('throughput'):.2f}", f"{m.ap:.1f}", m.found]
        table.append([*row, mark])
    return table
