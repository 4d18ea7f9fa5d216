"""Bad requests, over 700 of them; the same seed gives the same ones.

``tests/e2e/test_corpus.py`` sends them all to TorchServe and to the page.
"""

from __future__ import annotations

import random

from tests.corpus import bodies, pictures
from tests.corpus.case import Case, files

__all__ = ["Case", "corpus", "files"]


def corpus(seed: int = 0) -> list[Case]:
    """All cases, by unique names."""
    cases = [case for kind in (*pictures.KINDS, *bodies.KINDS) for case in kind(random.Random(seed))]
    assert len({case.name for case in cases}) == len(cases)
    return cases
