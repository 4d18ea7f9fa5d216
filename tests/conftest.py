"""What all tests share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def balloon_photos() -> Path:
    """The folder of the real balloon set, holding train/ and val/; tests that want it are skipped without it."""
    folder = os.environ.get("BALLOON_DATA")
    if not folder:
        pytest.skip("BALLOON_DATA does not name the folder of the real balloon photos")
    return Path(folder)
