"""Dealing photos into folds: each once, groups whole, classes spread."""

from dataclasses import replace

import pytest

from finetune.data.dataset import Instance, Photo
from finetune.data.split import deal
from finetune.errors import UserError
from tests.finetune.data.samples import save_photo

SQUARE = [[0.0, 0, 9, 0, 9, 9, 0, 9]]


@pytest.fixture
def photos(tmp_path) -> list[Photo]:
    """24 photos, no two alike; every second shows class 0, every sixth class 1 as well, the last class 2 as well."""
    photos = []
    for i in range(24):
        shown = [0] * (i % 2 or i % 6 == 0) + [1] * (i % 6 == 0) + [2] * (i == 23)
        path = save_photo(tmp_path / f"{i}.png", seed=i)
        photos.append(Photo(path.name, path, 40, 30, [Instance(each, SQUARE) for each in shown]))
    return photos


def names(folds: list[list[Photo]]) -> list[set[str]]:
    return [{photo.name for photo in fold} for fold in folds]


@pytest.mark.parametrize("folds", [3, 4])
def test_each_photo_once_and_classes_spread(photos, folds):
    dealt = deal(photos, folds)
    assert sorted(photo.name for fold in dealt for photo in fold) == sorted(photo.name for photo in photos)
    for class_id, number in {0: 16, 1: 4}.items():
        counts = [sum(class_id in {i.class_id for i in photo.instances} for photo in fold) for fold in dealt]
        assert sum(counts) == number
        assert max(counts) - min(counts) <= 1, "a class is spread evenly"
    sizes = [len(fold) for fold in dealt]
    assert max(sizes) - min(sizes) <= 2
    assert names(deal(photos, folds)) == names(dealt), "always the same folds"


def test_groups_and_photos_that_look_alike_are_not_divided(photos):
    grouped = [replace(photo, group="film" if i < 5 else None) for i, photo in enumerate(photos)]
    grouped[7] = replace(grouped[7], image=grouped[4].image)  # looks like one of the group
    grouped[9] = replace(grouped[9], image=grouped[8].image)
    folds_of: dict[str, list[int]] = {}
    for number, fold in enumerate(deal(grouped, 4)):
        for photo in fold:
            folds_of.setdefault(photo.group, []).append(number)
    assert sorted(map(len, folds_of.values())) == [1] * 16 + [2, 6]
    assert all(len(set(folds)) == 1 for folds in folds_of.values())


def test_classes_rarer_than_the_folds_and_too_few_photos(photos):
    rare = [replace(photo, instances=[Instance(i, SQUARE)]) for i, photo in enumerate(photos[:4])]
    assert [len(fold) for fold in deal(rare, 4)] == [1, 1, 1, 1]
    with pytest.raises(UserError, match="do not fill 5 folds"):
        deal(rare, 5)
    alike = [replace(photo, image=rare[0].image) for photo in rare]
    with pytest.raises(UserError, match="1 photos or groups"):
        deal(alike, 3)
