"""The photos that a loader worker keeps in memory."""

import numpy as np
import pytest

from finetune.configs.keys import get_config
from finetune.data.dataset import load_split
from finetune.errors import UserError
from finetune.training import dataloader
from finetune.training.dataloader import TrainingBatches, epoch_of, training_loader


def test_the_image_cache_is_bounded(data, monkeypatch):
    monkeypatch.setattr(dataloader, "CACHE_BYTES", 2 * 3 * 128**2)
    keys = "FINETUNE.AUGMENT.CROP_SIZE 64 FINETUNE.AUGMENT.SCALE_MAX 2.0"
    batches = TrainingBatches(load_split(data, "train"), get_config("mobilenetv2_fpn", keys.split()))
    reads: list[int] = []
    read = batches._read
    monkeypatch.setattr(batches, "_read", lambda index: reads.append(index) or read(index))
    for index in (0, 1, 0, 2, 0, 1):
        assert batches._photo(index).nbytes <= 3 * 128**2
    assert reads == [0, 1, 2, 1], "the least recently used photo makes room"


def test_photos_of_rare_classes_are_repeated_and_no_other_order_changes():
    classes = [[0]] * 15 + [[0, 1]] + [[]]  # class 1 is in one photo of 17, the last photo is empty
    records = [{"annotations": [{"category_id": each} for each in photo]} for photo in classes]
    assert epoch_of(records, 0).tolist() == list(range(17))
    times = np.bincount(epoch_of(records, 0.5)).tolist()
    assert times == [4] * 15 + [12] + [4]  # sqrt(0.5 / (1 / 17)) = 2.9, rounded to quarters of 4


def test_the_draw_depends_on_the_step_alone(data):
    cfg = get_config("mobilenetv2_fpn")
    cfg.FINETUNE.REPEAT_THRESHOLD, cfg.FINETUNE.AUGMENT.COPY_PASTE = 0.5, 1.0
    cfg.FINETUNE.AUGMENT.CROP_SIZE = 64
    one, other = (TrainingBatches(load_split(data, "train"), cfg) for _ in range(2))
    for step in (0, 1, 2):
        one[step]
    assert all((a["image"] == b["image"]).all() for a, b in zip(one[3], other[3], strict=True))


def negatives_of(objects: int, empty: int, share: float, hardness: float = 0.0, **options) -> TrainingBatches:
    """Batches of photos with objects and, from index ``objects`` on, of photos without one."""
    annotations = [[{"category_id": 0}]] * objects + [[]] * empty
    records = [{"file_name": f"{i}.jpg", "annotations": found} for i, found in enumerate(annotations)]
    cfg = get_config("mobilenetv2_fpn")
    cfg.FINETUNE.NEGATIVE_SHARE, cfg.FINETUNE.HARD_NEGATIVES = share, hardness
    return TrainingBatches(records, cfg, **options)


def drawn(monkeypatch, batches: TrainingBatches) -> list[int]:
    """The photos of the first 100 batches, by index."""
    seen: list[int] = []
    monkeypatch.setattr(batches, "_sample", lambda index, rng: seen.append(index))
    monkeypatch.setattr(dataloader, "jitter_color", lambda sample, rng, **color: sample)
    monkeypatch.setattr(dataloader, "to_model_input", lambda sample: sample)
    for step in range(100):
        batches[step]
    return seen


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 100), (0.75, 300)])
def test_negatives_take_their_share_of_the_slots(monkeypatch, share, expected):
    batches = negatives_of(3, 40, share)
    seen = drawn(monkeypatch, batches)
    negatives = [index for index in seen if index >= 3]
    assert len(seen) == 400
    assert abs(len(negatives) - expected) < 40
    assert not expected or len(set(negatives)) > 30
    assert seen == drawn(monkeypatch, batches)


def test_hard_negatives_are_drawn_as_often_as_they_fool_the_initial_weights(monkeypatch):
    scores = {"3.jpg": 1.0, "4.jpg": 0.0, "5.jpg": 0.0}  # odds 9 : 1 : 1
    seen = drawn(monkeypatch, negatives_of(3, 3, 0.5, 8.0, false_scores=scores))
    assert abs(seen.count(3) / sum(index >= 3 for index in seen) - 9 / 11) < 0.07


NAN = float("nan")
BAD_SHARES = [(1.0, 2, 2), (1.5, 2, 2), (-0.5, 2, 2), (NAN, 2, 2), (0.25, 2, 0), (0.25, 0, 2)]


@pytest.mark.parametrize(
    ("objects", "empty", "share", "hardness"),
    [(objects, empty, share, 0.0) for share, objects, empty in BAD_SHARES]
    + [(2, 2, share, hardness) for share, hardness in ((0.5, -1.0), (0.5, NAN), (-1.0, 8.0), (0.0, 8.0))],
)
def test_a_share_of_nothing_is_an_error(objects, empty, share, hardness):
    with pytest.raises(UserError, match="HARD_NEGATIVES" if hardness else "NEGATIVE_SHARE"):
        negatives_of(objects, empty, share, hardness)


@pytest.mark.parametrize(
    ("device", "asked", "cores", "processes", "workers"),
    [
        ("cpu", -1, 64, 1, 2),
        ("cpu", -1, 1, 1, 1),
        ("cpu", 5, 64, 1, 5),
        ("cuda", -1, 16, 1, 8),
        ("cuda:1", -1, 6, 1, 6),
        ("cuda", -1, 16, 4, 4),
        ("cuda", -1, 1, 4, 1),
        ("cuda", 0, 16, 1, 0),
    ],
)
def test_a_gpu_gets_a_loader_worker_per_core_and_pinned_memory(
    monkeypatch, device, asked, cores, processes, workers
):
    cfg = get_config("mobilenetv2_fpn", ["MODEL.DEVICE", device, "DATALOADER.NUM_WORKERS", str(asked)])
    monkeypatch.setattr(dataloader, "usable_cores", lambda: cores)
    monkeypatch.setattr(dataloader, "DataLoader", lambda _, **options: options)
    monkeypatch.setattr(dataloader.comm, "get_local_size", lambda: processes)
    monkeypatch.setattr(dataloader, "TrainingBatches", lambda *_, **__: None)
    options = training_loader([], cfg, {}, 0, 4)
    assert (options["num_workers"], options["pin_memory"]) == (workers, device != "cpu")
