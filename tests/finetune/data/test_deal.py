"""Dealing photos into folds: each once, groups whole, classes spread."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from finetune.data.dataset import Instance, Photo
from finetune.data.split import deal
from finetune.errors import UserError
from tests.finetune.data.samples import save_photo

SQUARE = [[0.0, 0, 9, 0, 9, 9, 0, 9]]


@pytest.fixture
def photos(tmp_path) -> list[Photo]:
    """24 photos, no two alike; every second shows class 0, every sixth class 1 as well, the last class 2 as well."""
    classes = [{0} if i % 2 else {0, 1} if i % 6 == 0 else set() for i in range(24)]
    classes[23] |= {2}
    return [
        Photo(
            f"{i}.png",
            save_photo(tmp_path / f"{i}.png", seed=i),
            40,
            30,
            [Instance(c, SQUARE) for c in shown],
        )
        for i, shown in enumerate(classes)
    ]


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
    dealt = deal(grouped, 4)
    fold_of = {photo.name: n for n, fold in enumerate(dealt) for photo in fold}
    assert len({fold_of[f"{i}.png"] for i in (0, 1, 2, 3, 4, 7)}) == 1
    assert fold_of["8.png"] == fold_of["9.png"]
    sizes = Counter(photo.group for fold in dealt for photo in fold)
    assert sorted(sizes.values()) == [1] * 16 + [2, 6]
    for one, other in combinations(dealt, 2):
        assert not {photo.group for photo in one} & {photo.group for photo in other}


def test_classes_rarer_than_the_folds_and_too_few_photos(photos):
    rare = [replace(photo, instances=[Instance(i, SQUARE)]) for i, photo in enumerate(photos[:4])]
    assert [len(fold) for fold in deal(rare, 4)] == [1, 1, 1, 1]
    with pytest.raises(UserError, match="do not fill 5 folds"):
        deal(rare, 5)
    alike = [replace(photo, image=rare[0].image) for photo in rare]
    with pytest.raises(UserError, match="1 photos or groups"):
        deal(alike, 3)
