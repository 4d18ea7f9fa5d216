"""A model that predicts again is not exported again."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.export import cached
from finetune.export.archive import Options
from finetune.export.cached import KEPT, cached_archive
from tests.toy_models import write_run


def test_an_archive_is_made_once_for_each_state_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(path: Path, options: Options) -> Path:
        options.output.mkdir(parents=True)
        (archive := options.output / "maskrcnn_v.mar").touch()
        return archive

    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cached, "export", export)
    write_run(run := tmp_path / "run")
    archives = [cached_archive(run), cached_archive(run)]
    assert archives[0] == archives[1]
    for changed in ("operating_point.json", "evaluation/test/report.json", "tuned.json", "run.json"):
        (run / changed).parent.mkdir(parents=True, exist_ok=True)
        with (run / changed).open("a") as file:
            file.write(" " if changed == "run.json" else "{}")
        archives.append(cached_archive(run))
    assert len(set(archives)) == 5
    assert sum(archive.exists() for archive in set(archives)) == KEPT
    assert archives[-1].exists()
