import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from handler.build.convert import convert
from handler.errors import EngineError
from handler.model.engines import INT8_IR_NAME, choose_engine, prefer_int8
from handler.model.predictor import Predictor
from tests.handler.model.test_predictor import PHOTOS, assert_same, detectron2s

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def converted(toy: tuple[Path, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(toy[0], tmp_path_factory.mktemp("openvino") / "archive")
    convert(folder)
    return folder


@pytest.fixture(scope="module")
def openvino_fp32(converted: Path) -> Predictor:
    return Predictor.load(converted, device="cpu", precision="fp32")


def test_auto_takes_openvino_on_a_processor(converted: Path, openvino_fp32: Predictor) -> None:
    assert openvino_fp32.engine == "openvino"
    assert choose_engine("auto", "auto", torch.device("cuda"), converted) == "torch"


def test_a_gpu_is_refused(converted: Path) -> None:
    with pytest.raises(EngineError, match="not on cuda:1"):
        choose_engine("openvino", "auto", torch.device("cuda:1"), converted)


@pytest.mark.parametrize(
    ("precision", "engine", "device", "chosen"),
    [
        ("auto", "auto", "cpu", "int8"),
        ("auto", "openvino", "cpu", "int8"),
        ("auto", "torch", "cpu", "auto"),
        ("auto", "auto", "cuda", "auto"),
        ("fp32", "auto", "cpu", "fp32"),
    ],
)
def test_auto_takes_the_8_bit_model_that_an_archive_carries(
    converted: Path, tmp_path: Path, precision: str, engine: str, device: str, chosen: str
) -> None:
    assert prefer_int8("auto", "auto", CPU, converted) == "auto"
    folder = shutil.copytree(converted, tmp_path / "archive")
    (folder / INT8_IR_NAME).touch()
    assert prefer_int8(precision, engine, torch.device(device), folder) == chosen


@pytest.mark.parametrize("image", PHOTOS, ids=lambda image: f"{image.shape[1]}x{image.shape[0]}")
def test_fp32_equals_detectron2(
    toy: tuple[Path, nn.Module], openvino_fp32: Predictor, image: np.ndarray
) -> None:
    # three sizes on one compiled model: its shapes are dynamic
    (found,) = openvino_fp32.predict([image])
    assert_same(found, detectron2s(toy[1], image), boxes=0.01, scores=1e-3, masks=0.01)


def test_results_do_not_live_in_the_engines_buffers(openvino_fp32: Predictor) -> None:
    (first,) = openvino_fp32.predict([PHOTOS[0]])
    before = [array.copy() for array in (first.boxes, first.scores, first.masks)]
    openvino_fp32.predict([PHOTOS[2]])
    for array, copy in zip((first.boxes, first.scores, first.masks), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_bf16_features_are_close_to_fp32s(converted: Path, openvino_fp32: Predictor) -> None:
    bf16 = Predictor.load(converted, device="cpu", precision="bf16", engine="openvino")
    batch = bf16.normalize([torch.from_numpy(PHOTOS[0])])
    exact = openvino_fp32._engine(batch).features[1].float()
    rounded = bf16._engine(batch).features[1].float()
    assert torch.corrcoef(torch.stack([exact.flatten(), rounded.flatten()]))[0, 1] > 0.9


def test_a_damaged_model_is_refused_in_one_sentence(converted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(converted, tmp_path / "archive")
    (folder / "openvino/trunk.xml").write_text("<net")
    with pytest.raises(EngineError, match="export it again") as caught:
        Predictor.load(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_openvino_is_imported_without_its_telemetry() -> None:
    code = (
        "import sys; from handler.model.engines.openvino_engine import import_openvino; import_openvino(); "
        "sys.exit(sys.modules.get('openvino_telemetry') is not None)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
