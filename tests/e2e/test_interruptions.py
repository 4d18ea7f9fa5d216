"""A full disk and Ctrl-C, at the moments that hurt: nothing half-made stays, what was there before still works,
and no process is left.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finetune.checkpoints.run import Run
from finetune.data.synthetic import make_synthetic
from tests.commands import finetune
from tests.finetune.training.test_training import TOY
from tests.serve_config.conftest import REPOSITORY
from tests.torchserve_fixture import toy_archive
from tests.toy_models import write_run

MARK = "INTERRUPTED_BY_TEST"
ARCHIVE = "maskrcnn_mobilenetv2_fpn.mar"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    write_run(folder)
    return folder


@contextmanager
def command(
    cwd: Path, module: str, *arguments: str | Path, restore: bool = True, **popen: object
) -> Iterator[subprocess.Popen]:
    """``python -m MODULE ARGUMENTS`` in a process group of its own, as a terminal starts it. Afterwards none of
    its processes may be left, wherever they went: they all inherit a mark.
    """
    mark = uuid.uuid4().hex
    environment = os.environ | {MARK: mark, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    # a shell that starts the tests in the background has SIGINT ignored, and children inherit that
    words = ["env", "--default-signal=INT"] * restore + [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(
        words, cwd=cwd, env=environment, start_new_session=True, stdout=-1, stderr=-2, text=True, **popen
    ) as process:
        try:
            yield process
            process.communicate(timeout=60)
            deadline = time.monotonic() + 5
            while (left := marked(mark)) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert left == []
        finally:
            for rest in marked(mark):
                with suppress(psutil.Error):
                    rest.kill()


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def read_until(process: subprocess.Popen, words: str) -> str:
    """What was printed up to the line with ``words``."""
    assert process.stdout is not None
    text = ""
    while words not in text:
        line = process.stdout.readline()
        assert line, f"ended before {words!r}: {text}"
        text += line
    return text


def press_ctrl_c(process: subprocess.Popen) -> str:
    """What a terminal does: the whole group gets SIGINT. Returns what was printed after it."""
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    return said or ""


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "later"), [("packing", 0.0), ("packing", 0.4), ("trying", 0.0), ("trying", 1.5)]
)
def test_ctrl_c_during_export_leaves_the_old_archive_and_nothing_else(
    run: Path, tmp_path: Path, moment: str, later: float
) -> None:
    (tmp_path / ARCHIVE).write_text("the old one")
    with command(REPOSITORY, "finetune", "export", run, "--output", tmp_path, "--engine", "torch") as process:
        read_until(process, moment)
        time.sleep(later)
        said = press_ctrl_c(process)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]
    assert (tmp_path / ARCHIVE).read_text() == "the old one"


def everything_made(folder: Path) -> None:
    """What the demo makes before it serves: photos, and archives that need no torch."""
    make_synthetic(folder / "data", images=6, size=(96, 64))
    (folder / "model_store").mkdir()
    report = folder / "runs/mobilenetv2_fpn/evaluation/test/report.json"
    report.parent.mkdir(parents=True)
    report.write_text("{}")
    (folder / "runs/mobilenetv2_fpn/run.json").write_text('{"iterations": 1, "planned_iterations": 1}')
    for version in ("starter", "mobilenetv2_fpn.2"):
        toy_archive(folder / "model_store", version)
        shutil.rmtree(folder / "model_store" / f"parts_{version}")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("moment", "later"),
    [("Start TorchServe", 0.0), ("Start TorchServe", 2.5), ("Send a photo", 0.0), ("Start the page", 0.3)],
)
def test_ctrl_c_while_the_demo_serves_leaves_no_process(tmp_path: Path, moment: str, later: float) -> None:
    everything_made(tmp_path / ".demo")
    with command(tmp_path, "serve_config.demo", "--check") as process:
        read_until(process, moment)
        time.sleep(later)
        said = press_ctrl_c(process)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    serve = tmp_path / ".demo/serve"
    assert not (serve / "key_file.json").exists()
    assert not (serve / "tmp").exists()


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_ends_by_a_signal_also_where_sigint_was_ignored(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As after `nohup make demo &`: the process inherits SIGINT ignored."""
    everything_made(tmp_path / ".demo")
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    with command(tmp_path, "serve_config.demo", "--check", restore=False, **ignore) as process:
        read_until(process, "Start TorchServe")
        time.sleep(2)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not (tmp_path / ".demo/serve/tmp").exists()


@pytest.mark.parametrize("later", [0.0, 0.5, 1.5])
def test_ctrl_c_while_the_demo_draws_leaves_no_half_data_set(tmp_path: Path, later: float) -> None:
    with command(tmp_path, "serve_config.demo", "--check") as process:
        read_until(process, "maskrcnn data synthetic")
        time.sleep(later)
        said = press_ctrl_c(process)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    left = list((tmp_path / ".demo").iterdir()) if (tmp_path / ".demo").exists() else []
    assert left == [] or (tmp_path / ".demo/data/dataset.json").exists(), "all of it or nothing"


# --- a full disk ---------------------------------------------------------------------------------------------------


def limit_files(size: int) -> Callable[[], None]:
    """For ``preexec_fn``: no file of the child may grow beyond ``size`` bytes (the kernel then says EFBIG)."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes at ``folder``; skipped where mounting is not allowed."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def weights_size(run: Path) -> int:
    return (run / "model_best.safetensors").stat().st_size


@pytest.mark.parametrize("spare", [-100_000, 10_000], ids=["copying the weights", "packing"])
def test_files_cannot_grow_while_exporting(run: Path, tmp_path: Path, spare: int) -> None:
    (tmp_path / ARCHIVE).write_text("the old one")
    limit = limit_files(weights_size(run) + spare)
    arguments = ["export", run, "--output", tmp_path, "--engine", "torch"]
    with command(REPOSITORY, "finetune", *arguments, preexec_fn=limit) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("Error: "), said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]
    assert (tmp_path / ARCHIVE).read_text() == "the old one"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.5, 2.5], ids=["at once", "copying", "packing", "unpacking"])
def test_disk_full_while_exporting(run: Path, tmp_path: Path, share: float) -> None:
    size = int(share * weights_size(run)) + 100_000
    with small_disk(tmp_path / "disk", size) as disk:
        (disk / ARCHIVE).write_text("the old one")
        arguments = ["export", run, "--output", disk, "--engine", "torch"]
        with command(REPOSITORY, "finetune", *arguments) as process:
            said, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert said.splitlines()[-1].startswith("Error: "), said
        assert "Traceback" not in said
        assert [path.name for path in disk.iterdir()] == [ARCHIVE]
        assert (disk / ARCHIVE).read_text() == "the old one"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and a run that was stopped after two of its four steps."""
    folder = tmp_path_factory.mktemp("trained")
    make_synthetic(folder / "data", images=8, size=(96, 64))
    arguments = ["train", "mobilenetv2_fpn", "--data", str(folder / "data"), "--weights", "none"]
    arguments += ["--output", str(folder / "run"), "--stop-after", "2", *TOY, "SOLVER.MAX_ITER", "4"]
    assert finetune([*arguments, "TEST.EVAL_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2"]) == 0
    return folder / "data", folder / "run"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7], ids=["nothing left", "little left", "not enough"])
def test_disk_full_while_training_spares_the_last_good_checkpoint(
    trained: tuple[Path, Path], tmp_path: Path, share: float
) -> None:
    data, run = trained
    used = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    free = int(share * (run / "last.pth").stat().st_size)  # of what the next checkpoint takes
    with small_disk(tmp_path / "disk", used + 200_000 + free) as disk:
        folder = Path(shutil.copytree(run, disk / "run"))
        filler = disk / "filler"
        if share == 0:
            with suppress(OSError), open(filler, "wb") as file:
                while True:
                    file.write(bytes(4096))
        before = Run(folder).load_last()["step"]
        arguments = ["train", "mobilenetv2_fpn", "--data", data, "--output", folder, "--resume"]
        with command(REPOSITORY, "finetune", *arguments) as process:
            said, _ = process.communicate(timeout=100)
        assert process.returncode == 1, said
        assert said.splitlines()[-1].startswith("Error: "), said
        assert "Traceback" not in said, said
        assert Run(folder).load_last()["step"] == before
        assert all(
            torch.isfinite(value).all() for value in load_file(folder / "model_best.safetensors").values()
        )
        assert json.loads((folder / "run.json").read_text())["iterations"] >= 2
        assert not list(folder.glob(".*.tmp"))
        filler.unlink(missing_ok=True)
    # and with room again, it goes on
    arguments = ["train", "mobilenetv2_fpn", "--data", str(data), "--resume"]
    again = Path(shutil.copytree(run, tmp_path / "again"))
    assert finetune([*arguments, "--output", str(again)]) == 0
    assert Run(again).load_last()["step"] == 4
