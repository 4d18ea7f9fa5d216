"""Draw validation and test photos at random, the same ones every time."""

from collections.abc import Sequence

import numpy as np

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
