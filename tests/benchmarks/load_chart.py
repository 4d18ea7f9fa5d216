"""The picture that `make load` and `make soak` draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def chart(path: Path, samples: Sequence[Any], measured: Sequence[dict[str, Any]]) -> None:
    """Latency over time by outcome; below it, after a soak, memory over time.

    Args:
        samples: :class:`tests.benchmarks.load.Sample`. measured: rows of ``seconds`` and ``PROCESS MB``, or none.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1 + bool(measured), 1, figsize=(9, 3.2 * (1 + bool(measured))), squeeze=False, layout="constrained"
    )
    start = min(sample.at for sample in samples)
    outcomes = {
        "answered": ((200, 400), "#1f77b4"),
        "503, come back later": ((503,), "#e69f00"),
        "lost": ((0,), "#d55e00"),
    }
    for label, (statuses, color) in outcomes.items():
        chosen = [sample for sample in samples if sample.status in statuses]
        if chosen:
            x, y = [s.at - start for s in chosen], [1e3 * s.seconds for s in chosen]
            axes[0, 0].scatter(x, y, s=5, color=color, label=f"{label} ({len(chosen)})")
    for phase in dict.fromkeys(sample.phase for sample in samples):
        begun = min(s.at for s in samples if s.phase == phase) - start
        axes[0, 0].axvline(begun, color="#bbbbbb", linewidth=0.8)
        axes[0, 0].text(begun, 1.01, f" {phase}", transform=axes[0, 0].get_xaxis_transform(), fontsize=8)
    axes[0, 0].set(yscale="log", ylabel="milliseconds", xlabel="seconds")
    axes[0, 0].legend(fontsize=8)
    if measured:
        for name in ("worker", "page", "TorchServe (Java)"):
            x = [row["seconds"] - start for row in measured]
            y = [row[f"{name} MB"] for row in measured]
            axes[1, 0].plot(x, y)
            axes[1, 0].annotate(
                name, (x[-1], y[-1]), (0, 5), textcoords="offset points", ha="right", fontsize=8
            )
        axes[1, 0].margins(y=0.15)
        axes[1, 0].set(ylabel="resident memory, MB", xlabel="seconds", ylim=(0, None))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
