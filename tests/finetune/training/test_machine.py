"""What a run is recorded with."""

import importlib.metadata

import click
import pytest

from finetune.export.cli import count_workers, export
from finetune.training import machine
from finetune.training.machine import package_versions


def test_versions_do_not_depend_on_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)  # as after an install from GitHub
    assert all(version[0].isdigit() for version in package_versions().values())


@pytest.mark.parametrize(
    ("gpus", "gib", "cores", "workers"),
    [(0, 0, 64, None), (1, 79, 64, 4), (1, 15, 64, 2), (2, 79, 8, 4), (2, 79, 1, 2), (1, 1, 64, 1)],
)
def test_workers_that_fit(
    monkeypatch: pytest.MonkeyPatch, gpus: int, gib: int, cores: int, workers: int | None
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (gib * 2**30, 80 * 2**30))
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert machine.workers_that_fit() == workers


@pytest.mark.parametrize(("fit", "said"), [(3, "workers: 3\n"), (None, "workers: as the server decides")])
def test_export_says_how_many_workers_fit(monkeypatch, capsys, fit: int | None, said: str) -> None:
    monkeypatch.setattr(machine, "workers_that_fit", lambda: fit)
    option = next(each for each in export.params if each.name == "workers")
    assert count_workers(click.Context(export), option, "auto") == fit
    assert capsys.readouterr().err.startswith(said)
