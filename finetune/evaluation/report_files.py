"""Reports as text: tables in Markdown, numbers in JSON, whole folders that appear at once."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetune.errors import UserError
from finetune.evaluation.coco_eval import KINDS, METRICS

NAMES = {"segm": "masks", "bbox": "boxes"}


@contextlib.contextmanager
def new_folder(target: Path, *, marker: str) -> Iterator[Path]:
    """Yield a temporary folder that takes ``target``'s place if the block ends well, and vanishes if not.

    Args:
        marker: the file by which a folder that may be replaced is known.

    Raises:
        UserError: ``target`` holds something else, or cannot be written.
    """
    if target.exists() and not (target / marker).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and is no earlier report: choose another --output")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}): choose another --output") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def number(value: float | None, interval: Sequence[float] | None = None) -> str:
    """``62.1``, ``62.1 (50.3–71.0)``, or ``n/a`` where there was nothing to measure."""
    if value is None:
        return "n/a"
    return f"{value:.1f}" + (f" ({interval[0]:.1f}–{interval[1]:.1f})" if interval else "")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = ([str(cell).replace("|", "\\|") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report_rows(report: dict[str, Any]) -> list[list[str]]:
    """The table of one evaluation: a row for masks and one for boxes."""
    rows = [["", *METRICS]]
    for kind in KINDS:
        values = report[kind]
        rows.append([NAMES[kind], *(number(values[m], values["intervals"].get(m)) for m in METRICS)])
        for name, per_class in values.get("per_class", {}).items():
            rows.append([f"– {name}", *(number(per_class[m]) for m in METRICS)])
    return rows


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write ``report.json`` and ``report.md``."""
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")


def origin(weights: str | None) -> str:
    """``imagenet``, ``coco`` … as they are; of a file or URL its name."""
    return Path(urlsplit(weights).path).name if weights else "unknown"


def _markdown(report: dict[str, Any]) -> str:
    at, latency, data, training = report["at_score"], report["latency_ms"], report["data"], report["training"]
    lines = [
        f"# {report['name']}: {data['split']} split of {data['name']}",
        "",
        markdown_table(report_rows(report)),
        "",
        f"Average precision in percent as COCO defines it, over {report['images']} photos with"
        f" {report['objects']} objects; in brackets 95 % of 1000 resamplings of the photos."
        " s, m, l: objects below 32², below 96², above (pixels); n/a: there are none.",
        "",
        f"- At score ≥ {at['score']:g}: **{at['found']} of {at['found'] + at['missed']}** objects found,"
        f" {at['false']} false; precision {number(at['precision'])}, recall {number(at['recall'])},"
        f" mean mask IoU {number(at['mean_iou'])}.",
        f"- Time: {latency['median']:g} ms a photo (median; {latency['what']}; {latency['device']},"
        f" {latency['precision']}, {latency['threads']} threads) on {report['machine']}.",
        f"- Input: short side {report['input']['min_size']}, long side at most {report['input']['max_size']}"
        f" pixels; {report['proposals']} proposals.",
    ]
    if training:
        init = training.get("init", {})
        lines.append(
            f"- Training: {report['backbone']} from {origin(init.get('weights'))} weights,"
            f" {training.get('iterations', '?')} steps, seed {training.get('seed', '?')},"
            f" {training.get('seconds', 0) / 60:.0f} min on {training.get('machine', 'an unknown machine')}."
        )
    lines += [
        f"- Weights: SHA-256 `{report['weights_sha256']}`.",
        "",
        "![precision and recall](pr_curve.png)",
        "",
    ]
    if report["worst"]:
        lines += [
            "## The worst photos",
            "",
            "By panoptic quality: F1 × mean mask IoU of what was found."
            " Blue is right; striped was missed, or is false.",
            "",
        ]
    for entry in report["worst"]:
        lines += [
            f"**{entry['photo']}**: quality {entry['quality']:.0f}, {entry['missed']} of {entry['objects']}"
            f" missed, {entry['false']} false",
            "",
            f"![truth and prediction]({entry['drawn']})",
            "",
        ]
    return "\n".join(lines)
