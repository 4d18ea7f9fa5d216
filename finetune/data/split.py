"""Draw validation and test photos at random, the same ones every time."""

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from finetune.data.dataset import SPLITS
from finetune.errors import UserError


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
    given: dict[str, list[str]] = {}
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
    train = given.get("train", [])
    count = len(train)
    for split, share in shares.items():
        if share:
            # a share of all photos, also for the second split that is drawn
            train, given[split] = split_names(
                train, min(share * count / max(len(train), 1), 1), seed, group_of
            )
    given["train"] = train
    return {split: given[split] for split in SPLITS if split in given}
