"""``curves.png``: losses and val AP against the step."""

from __future__ import annotations

import json
from pathlib import Path

from finetune.files import write_atomically

LOSSES = {
    "total_loss": "total",
    "loss_hint": "against the teacher",
    "loss_cls": "box class",
    "loss_box_reg": "box position",
    "loss_mask": "mask",
    "loss_rpn_cls": "proposal objectness",
    "loss_rpn_loc": "proposal position",
}


def draw_curves(run: Path) -> Path:
    """Draw ``metrics.json`` of a run folder into its ``curves.png`` and return its path."""
    from matplotlib.figure import Figure

    path = run / "metrics.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, label in LOSSES.items():
        points = [(row["iteration"] + 1, row[key]) for row in rows if key in row]
        if points:
            left.plot(*zip(*points, strict=True), label=label, linewidth=2.2 if key == "total_loss" else 1.2)
    left.set(title="Training loss (median of 20 steps)", xlabel="step", ylabel="loss", ylim=(0, None))
    for key, label in {"val/segm_AP": "mask AP", "val/bbox_AP": "box AP"}.items():
        points = [(row["iteration"] + 1, row[key]) for row in rows if row.get(key) is not None]
        if points:
            right.plot(*zip(*points, strict=True), label=label, marker="o")
    right.set(title="AP on the val split", xlabel="step", ylabel="AP (%)", ylim=(0, 100))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    target = run / "curves.png"
    write_atomically(target, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
    return target
