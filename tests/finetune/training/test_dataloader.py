"""The photos that a loader worker keeps in memory."""

from finetune.configs.keys import get_config
from finetune.data.dataset import load_split
from finetune.training import dataloader
from finetune.training.dataloader import TrainingBatches


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
