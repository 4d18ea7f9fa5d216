"""Draw validation and test photos at random, and deal photos into folds; the same ones every time."""

import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from finetune.data.dataset import SPLITS, Photo
from finetune.data.photos import difference_hash, near_pairs, open_photo
from finetune.errors import UserError

TOO_RARE = -2
"""Stands for all classes that fewer photos show than there are folds."""


def split_names(
    names: Sequence[str], share: float, seed: int, group_of: Callable[[str], str] = str
) -> tuple[list[str], list[str]]:
    """Split names into (rest, drawn), both sorted.

    The names are sorted first, so the order of a folder does not matter, and drawn as scikit-learn's
    ``train_test_split`` draws them: ``RandomState(seed).permutation``, a stream that numpy keeps for good.

    Args:
        share: 0..1; a share above 0 draws at least one name and leaves at least one.
        group_of: name → group; a group is drawn whole.

    Raises:
        UserError: there are too few names or groups.
    """
    names = sorted(names)
    if share == 0:
        return names, []
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name), []).append(name)
    keys = sorted(groups)
    if len(keys) < 2:
        what = "photo(s)" if len(keys) == len(names) else "group(s) of photos"
        raise UserError(f"{len(keys)} {what} cannot be split: annotate more, or ask for a share of 0")
    wanted = min(max(round(len(names) * share), 1), len(names) - 1)
    drawn: set[str] = set()
    order = np.random.RandomState(seed).permutation(len(keys))
    for i in order:
        if len(drawn) + len(groups[keys[i]]) <= wanted:
            drawn.update(groups[keys[i]])
    if not drawn:
        drawn.update(groups[min(keys, key=lambda key: len(groups[key]))])
    return [name for name in names if name not in drawn], sorted(drawn)


def grouping(rule: str | None) -> Callable[[str], str]:
    """Name → group, by ``--group-by``: None (each photo alone), ``folder``, or a regular expression.

    An expression groups by its first group, or by all that it matches; a name without a match is a group of its own.

    Raises:
        UserError: the expression is not valid.
    """
    if rule is None:
        return str
    if rule == "folder":
        return posixpath.dirname
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UserError(f"--group-by {rule!r} is not a regular expression ({error}): correct it") from None

    def group_of(name: str) -> str:
        found = pattern.search(name)
        return found[1 if pattern.groups else 0] or name if found else name

    return group_of


def plan_splits(
    photos: Mapping[str, str | None],
    val: float,
    test: float,
    seed: int,
    group_of: Callable[[str], str] = str,
) -> dict[str, list[str]]:
    """Decide which photo belongs to which split.

    Args:
        photos: name → the split that its tool put it into, None for no such split.
        val, test: the shares of the training photos to draw for a split that no photo belongs to.
        group_of: name → group; a group belongs to one split.

    Returns:
        Split → names, sorted.

    Raises:
        UserError: too few photos for these shares, or a group in two splits.
    """
    given: dict[str, list[str]] = {"train": []}
    places: dict[str, str] = {}
    for name in sorted(photos):
        split = photos[name] or "train"
        given.setdefault(split, []).append(name)
        if places.setdefault(group_of(name), split) != split:
            raise UserError(
                f"the group {group_of(name)!r} lies in {places[group_of(name)]} and in {split}: move its photos to one"
            )
    shares = {split: share for split, share in (("test", test), ("val", val)) if split not in given}
    if sum(shares.values()) >= 1:
        raise UserError(f"--val {val} and --test {test} leave nothing to train on: choose smaller shares")
    count = len(given["train"])
    for split, share in shares.items():
        if share:  # of all photos, also for the second split that is drawn
            rest = min(share * count / max(len(given["train"]), 1), 1)
            given["train"], given[split] = split_names(given["train"], rest, seed, group_of)
    return {split: given[split] for split in SPLITS if split in given}


def deal(photos: Sequence[Photo], folds: int) -> list[list[Photo]]:
    """Deal photos into folds of about equal size that show about the same share of each class.

    Photos that look alike, or belong to one group of ``--group-by``, form a group, and a group is never divided. The
    same photos are always dealt alike, so that models can be compared.

    Returns:
        The folds; the ``group`` of each photo is the number of its group.

    Raises:
        UserError: there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = _group_numbers(photos)
    if (count := len(np.unique(groups))) < folds:
        raise UserError(
            f"{count} photos or groups of photos that look alike do not fill {folds} folds: annotate more, or ask for "
            "fewer folds"
        )
    labels = _rarest_classes(photos)
    photos_with = Counter(labels)
    labels = [label if photos_with[label] >= folds else TOO_RARE for label in labels]
    numbered = [replace(photo, group=str(group)) for photo, group in zip(photos, groups, strict=True)]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # the rare are spread as far as they go
        warnings.filterwarnings("ignore", "The least populated class")
        return [[numbered[i] for i in members] for _, members in splitter.split(labels, labels, groups)]


def _group_numbers(photos: Sequence[Photo]) -> np.ndarray:
    """(N,): equal for photos that are connected by looking alike or by a common group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    hashes, first, pairs = [], dict[str, int](), [(0, 0)]
    for i, photo in enumerate(photos):
        assert isinstance(photo.image, Path)
        with open_photo(photo.image) as image:
            hashes.append(difference_hash(image))
        if photo.group is not None:
            pairs.append((first.setdefault(photo.group, i), i))
    rows, columns = zip(*pairs, *near_pairs(hashes), strict=True)
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(photos), len(photos)))
    return connected_components(links, directed=False)[1]


def _rarest_classes(photos: Sequence[Photo]) -> list[int]:
    """Of the classes that a photo shows, the one that the fewest photos show; -1 for a photo without objects."""
    shown = [{each.class_id for each in photo.instances if not each.iscrowd} for photo in photos]
    photos_with = Counter(chain.from_iterable(shown))
    return [min(sorted(classes), key=lambda each: photos_with[each], default=-1) for classes in shown]
