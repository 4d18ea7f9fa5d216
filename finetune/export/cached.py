"""Archives for ``maskrcnn predict RUN``, kept so that a model is exported once."""

from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import version
from pathlib import Path

from finetune.checkpoints.run import Run
from finetune.download import cache_folder
from finetune.export.archive import SOURCE, Options, export
from finetune.files import locked, sha256_of

KEPT = 4  # archives, of up to 200 MB each


def cached_archive(path: Path) -> Path:
    """The archive of a run folder or a published checkpoint, exported only if it is not in the cache.

    Raises:
        UserError: see ``export``.
    """
    folder = cache_folder() / "archives"
    mine = folder / _digest(Run.open(path))
    with locked(folder, wait=True):
        if not (archive := next(mine.glob("*.mar"), None)):
            archive = export(path, Options(output=mine))
        mine.touch()
        others = sorted((each for each in folder.iterdir() if each.is_dir()), key=lambda f: f.stat().st_mtime)
        for old in others[:-KEPT]:
            shutil.rmtree(old)
    return archive


def _digest(run: Run) -> str:
    """Changes with anything that an export reads: the model's files, the code, and the packages that convert it."""
    files = [run.weights, run.folder / "config.yaml", run.folder / "run.json"]
    files += [run.beside("operating_point.json"), run.beside("tuned.json")]
    files += sorted(run.folder.glob("evaluation/*/report.json"))
    for room in ("finetune", "handler"):
        files += sorted((SOURCE / room).rglob("*.py"))
    parts = [sha256_of(file) if file.is_file() else "" for file in files]
    parts += [version(package) for package in ("torch", "openvino")]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
