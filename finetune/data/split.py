"""Draw validation and test photos at random, the same ones every time."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from finetune.data.dataset import SPLITS
from finetune.errors import UserError


def split_names(names: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Split names into (rest, drawn), both sorted.

    The names are sorted first, so the order of a folder does not matter, and drawn as scikit-learn's
    ``train_test_split`` draws them: ``RandomState(seed).permutation``, a stream that numpy keeps for good.

    Args:
        share: 0..1; a share above 0 draws at least one name and leaves at least one.

    Raises:
        UserError: there are too few names.
    """
    names = sorted(names)
    if share == 0:
        return names, []
    if len(names) < 2:
        raise UserError(f"{len(names)} photo(s) cannot be split: annotate more, or ask for a share of 0")
    count = min(max(round(len(names) * share), 1), len(names) - 1)
    drawn = {names[i] for i in np.random.RandomState(seed).permutation(len(names))[:count]}
    return [name for name in names if name not in drawn], sorted(drawn)


def plan_splits(
    files: Mapping[str, Collection[str]], val: float, test: float, seed: int
) -> dict[str, tuple[str, list[str]]]:
    """Decide which photo belongs to which split.

    Args:
        files: names of the photos per annotation file; ``train`` always, ``val`` and ``test`` if there.
        val, test: the shares of the training photos to draw for a split that has no file of its own.

    Returns:
        Split → (the split whose file and folder its photos come from, their names).

    Raises:
        UserError: too few photos for these shares.
    """
    drawn_share = sum(share for split, share in (("val", val), ("test", test)) if split not in files)
    if drawn_share >= 1:
        raise UserError(f"--val {val} and --test {test} leave nothing to train on: choose smaller shares")
    train = sorted(files["train"])
    count = len(train)
    plan: dict[str, tuple[str, list[str]]] = {}
    for split, share in (("test", test), ("val", val)):
        if split in files:
            plan[split] = (split, sorted(files[split]))
        elif share:
            # a share of all photos, also for the second split that is drawn
            train, drawn = split_names(train, min(share * count / len(train), 1), seed)
            plan[split] = ("train", drawn)
    plan["train"] = ("train", train)
    return {split: plan[split] for split in SPLITS if split in plan}
