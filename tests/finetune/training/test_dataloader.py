"""The photos that a loader worker keeps in memory."""

import numpy as np

from finetune.configs.keys import get_config
from finetune.data.dataset import load_split
from finetune.training import dataloader
from finetune.training.dataloader import TrainingBatches, epoch_of


def test_the_image_cache_is_bounded(data, monkeypatch):
    size = 64 * 80 * 3
    monkeypatch.setattr(dataloader, "CACHE_BYTES", 2 * size)
    batches = TrainingBatches(load_split(data, "train"), get_config("mobilenetv2_fpn"))
    reads: list[int] = []
    read = batches._read
    monkeypatch.setattr(batches, "_read", lambda index: reads.append(index) or read(index))
    for index in (0, 1, 0, 2, 0, 1):
        batches._photo(index)
        assert sum(image.nbytes for image in batches._cache.values()) <= 2 * size
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
