"""The GPU's path on a pretended GPU: no tensor is left behind, and a request costs so many launches and waits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from finetune.data.dataset import load_split
from finetune.evaluation.inference import predict
from finetune.training import recipe
from finetune.training.dataloader import TrainingBatches
from finetune.training.launch import prepare
from handler.model import Wanted
from handler.model.engines import cuda_graphs
from handler.model.predictor import Predictor
from handler.model.preprocess import resize
from tests.benchmarks.comparing import assert_equal
from tests.finetune.conftest import data  # noqa: F401
from tests.finetune.training.test_training import TOY
from tests.pretended_gpu import GpuTensor, MixedDevices, PretendedGpu, pretended_gpu
from tests.toy_models import photo, write_unpacked_archive

PHOTOS = [photo(96, 128, seed=1), photo(96, 96, seed=2), photo(160, 80, seed=3)]  # of the network's size
BATCHES = {"one": PHOTOS[:1], "eight": PHOTOS[:1] * 8, "mixed": PHOTOS}
BUDGETS = [
    ("one", 320, 4),
    ("eight", 370, 4),
]  # kernel launches and host syncs of a batch of the MobileNetV2 toy


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_unpacked_archive(folder)
    return folder


@pytest.fixture
def gpu() -> Iterator[PretendedGpu]:
    with pretended_gpu() as gpu:
        yield gpu


@pytest.fixture(scope="module")
def on_cpu(archive: Path) -> Predictor:
    return Predictor.load(archive, device="cpu", precision="fp32", engine="torch")


@pytest.fixture(scope="module")
def on_gpu(archive: Path) -> dict[str, Predictor]:
    with pretended_gpu():
        return {name: Predictor.load(archive, device="cuda", precision=name) for name in ("fp32", "fp16")}


def test_it_refuses_what_a_gpu_refuses(gpu: PretendedGpu) -> None:
    tensor = torch.arange(4.0).to("cuda")
    assert isinstance(tensor, GpuTensor)
    assert tensor.device == torch.device("cuda:0")
    with pytest.raises(MixedDevices):
        tensor + torch.ones(4)
    with pytest.raises(TypeError, match="cuda:0"):
        tensor.numpy()
    assert (tensor + torch.tensor(1.0)).tolist() == [1, 2, 3, 4], "a number may come from the CPU"


def test_it_counts_launches_and_waits(gpu: PretendedGpu) -> None:
    tensor = torch.zeros(4, pin_memory=True).to("cuda", non_blocking=True)
    assert (gpu.launches.total(), gpu.syncs.total()) == (1, 0)
    tensor.view(2, 2).t().add_(1)
    assert gpu.launches == {"_to_copy": 1, "add_": 1}, "a view launches nothing"
    assert tensor.sum() > 3
    assert tensor[tensor > 0].tolist() == [1] * 4
    assert gpu.syncs == {"_local_scalar_dense": 1, "index": 1, "tolist": 1, "index from the CPU": 0}


@pytest.mark.parametrize("shape", [(96, 128), (200, 96), (800, 1067)])
def test_pixels_are_the_cpus(gpu: PretendedGpu, shape: tuple[int, int]) -> None:
    image = photo(500, 600, seed=4)
    on_gpu = resize(image, shape, torch.device("cuda"))
    assert (on_gpu.cpu() - resize(image, shape)).abs().max() <= 1, "levels of 255"


@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_equals_the_cpus(
    on_cpu: Predictor, on_gpu: dict[str, Predictor], gpu: PretendedGpu, batch: str
) -> None:
    found = on_gpu["fp32"].predict(BATCHES[batch])
    if batch == "mixed":  # padded together on the GPU alone: only what is sure stays where it was
        assert [len(each) > 0 for each in found] == [True] * 3
        return
    for pair in zip(found, on_cpu.predict(BATCHES[batch]), strict=True):
        assert_equal(*pair)


def test_fp16(on_gpu: dict[str, Predictor], gpu: PretendedGpu) -> None:
    assert on_gpu["fp16"].precision == "fp16"
    on_gpu["fp16"].warm_up(PHOTOS[0], 2)
    for found in on_gpu["fp16"].predict(PHOTOS):
        assert len(found) > 0
        assert np.isfinite(found.boxes).all()
        assert found.scores.dtype == found.masks.dtype == np.float32


def test_nothing_found(
    archive: Path, on_gpu: dict[str, Predictor], tmp_path: Path, gpu: PretendedGpu
) -> None:
    strict = Path(shutil.copytree(archive, tmp_path / "strict")) / "config.yaml"
    strict.write_text(strict.read_text().replace("SCORE_THRESH_TEST: 0.05", "SCORE_THRESH_TEST: 1.0"))
    for found in Predictor.load(strict.parent, device="cuda", precision="fp32").predict(PHOTOS):
        assert len(found) == 0
    wanted = [Wanted(), Wanted(masks=False), Wanted(score_threshold=1.0)]
    found = on_gpu["fp32"].predict(PHOTOS[:1] * 3, wanted)
    assert [len(each) > 0 for each in found] == [True, True, False]


def test_cuda_graphs_see_few_shapes(
    archive: Path, on_cpu: Predictor, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padded path. Capture and replay need a real GPU; here a "graph" computes again."""
    shapes = []

    def capture(layers: Any, values: torch.Tensor) -> Any:
        shapes.append(tuple(values.shape))
        return lambda: layers(values)

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    predictor = Predictor.load(archive, device="cuda", precision="fp32", cuda_graphs=True)
    for image in (PHOTOS[0], PHOTOS[0], PHOTOS[2]):
        (found,) = predictor.predict([image])
        assert_equal(found, on_cpu.predict([image])[0])
    assert len(shapes) == len(set(shapes)), "captured once"
    trunk = [shape for shape in shapes if shape[1] == 3]
    assert trunk == [(1, 3, 96, 128), (1, 3, 160, 96)]
    assert all(shape[0].bit_count() == 1 for shape in shapes)


@pytest.mark.parametrize(("batch", "launches", "syncs"), BUDGETS)
def test_a_request_keeps_to_its_budget(
    on_gpu: dict[str, Predictor], gpu: PretendedGpu, batch: str, launches: int, syncs: int
) -> None:
    predictor, photos = on_gpu["fp16"], [photo(120, 160)] * len(BATCHES[batch])
    predictor.predict(photos)  # anchors are made once for a size
    gpu.reset()
    predictor.predict(photos)
    print(f"batch {batch}: {gpu.launches.total()} launches, {gpu.syncs.total()} syncs: {dict(gpu.syncs)}")
    assert gpu.launches.total() <= launches, gpu.launches.most_common(10)
    assert gpu.syncs.total() <= syncs, gpu.syncs


def test_training_steps_and_an_evaluation(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of a step but the backward pass, which torch cannot pretend: its gradients are made up."""

    def train_and_evaluate(device: str) -> tuple[list[float], list[dict], dict]:
        keys = [*TOY, "FINETUNE.EMA_DECAY", "0.9", "MODEL.DEVICE", device]
        job = prepare("mobilenetv2_fpn", data, weights="none", output=tmp_path / device, overrides=keys)
        state, _ = recipe.set_up(job)
        trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]

        def backward(loss: torch.Tensor) -> None:
            for parameter in trained:
                parameter.grad = parameter.detach() * 0.01

        monkeypatch.setattr(torch.Tensor, "backward", backward)
        batches = TrainingBatches(load_split(data, "train"), job.config)
        state.model.train()
        losses = []
        with EventStorage():
            for step in range(2):
                row = recipe.train_step(job, state, state.model, batches[step], step)
                losses.append(recipe.log_losses(job, [row], step + 1))
        results, _ = predict(state.average.module, load_split(data, "val"), job.config)
        return losses, results, state.snapshot()

    losses, results, state = train_and_evaluate("cpu")
    with pretended_gpu() as gpu:
        on_gpu = train_and_evaluate("cuda")
        assert gpu.launches["_fused_adamw_"]
        assert gpu.launches["_foreach_lerp_"]
    assert on_gpu[0] == pytest.approx(losses, rel=1e-4)
    assert [each["score"] for each in on_gpu[1]] == pytest.approx(
        [each["score"] for each in results], abs=1e-3
    )
    for part in ("model", "average"):
        for name, value in state[part].items():
            assert type(on_gpu[2][part][name]) is torch.Tensor, "a checkpoint lies on the CPU"
            torch.testing.assert_close(on_gpu[2][part][name], value, rtol=1e-4, atol=1e-6)
