"""The wheel and its console script, and how fast ``maskrcnn --help`` answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from maskrcnn import maskrcnn, run
from tests.conftest import REPOSITORY
from tests.toy_models import write_run

ROOMS = "finetune handler serve_config web_client".split()


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    """pytest-xdist puts the repository into PYTHONPATH, where the wheel's own files would come second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


def test_help_fits_a_terminal_and_imports_no_heavy_package() -> None:
    heavy = "torch detectron2 flask requests cv2 numpy".split()
    code = (
        "import sys\nfrom maskrcnn import run, maskrcnn\nstatus = run(maskrcnn, 'maskrcnn')\n"
        f"print(*sorted(set({heavy}) & set(sys.modules)), file=sys.stderr)\nsys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert done.stderr.strip() == ""
    assert len(lines) < 24  # the prompt takes the last line
    assert max(map(len, lines)) <= 80


def test_help_takes_little_processor_time() -> None:
    """Processor time rather than seconds on the clock, and a wide margin: 0.3 s are promised on an idle machine."""
    process = psutil.Popen(
        [sys.executable, "-m", "maskrcnn", "--help"], cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    before = os.times()
    assert process.wait(timeout=60) == 0
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 1


def test_a_mistyped_command_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(maskrcnn, "maskrcnn", ["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy, because setuptools leaves a build folder beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, source / room, ignore=ignored)
    for name in "maskrcnn.py pyproject.toml README.md LICENSE".split():
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file_of_the_rooms(wheel: Path) -> None:
    source = wheel.parent / "source"
    kept = {
        str(path.relative_to(source))
        for room in ROOMS
        for path in source.joinpath(room).rglob("*")
        if path.is_file() and path.name != ".gitignore"
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == kept | {"maskrcnn.py"}


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, which sees the dependencies of this one by a .pth file."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    # a plain path: .pth files of the other environment, which names the repository, are not read
    (site / "dependencies.pth").write_text(f"{Path(psutil.__file__).parents[1]}\n")
    where = [python, "-c", "import finetune; print(finetune.__file__)"]
    found = subprocess.run(where, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(folder))
    return folder


@pytest.mark.parametrize("arguments", ["--help", "train --help", "serve start --help", "web --help"])
def test_console_script_works_outside_the_repository(
    arguments: str, environment: Path, tmp_path: Path
) -> None:
    command = [environment / "bin" / "maskrcnn", *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: maskrcnn" in done.stdout


def test_doctor_works_outside_the_repository(environment: Path, tmp_path: Path) -> None:
    command = [environment / "bin" / "maskrcnn", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


@pytest.mark.slow
def test_export_works_outside_the_repository(environment: Path, tmp_path: Path) -> None:
    """The archive holds the rooms' modules, which the wheel has in site-packages rather than in a repository."""
    write_run(tmp_path / "run")
    command = [environment / "bin" / "maskrcnn", "export", "run", "--version", "toy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    archive = tmp_path / done.stdout.splitlines()[-1]
    assert archive == tmp_path / "model_store" / "maskrcnn_toy.mar"
    names = zipfile.ZipFile(archive).namelist()
    assert {"maskrcnn_handler.py", "handler/service.py", "finetune/backbones/__init__.py"} <= set(names)
