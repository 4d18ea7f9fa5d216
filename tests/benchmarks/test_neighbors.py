"""Workers leave each other, and a busy program, their share of the cores."""

from pathlib import Path

import pytest

from tests.benchmarks.neighbors import BUSY, TOGETHER, rows_of
from tests.toy_models import write_unpacked_archive

LESS_TINY = "INPUT.MIN_SIZE_TEST 256 INPUT.MAX_SIZE_TEST 400 MODEL.FPN.OUT_CHANNELS 64 MODEL.ROI_MASK_HEAD.CONV_DIM 64"


@pytest.mark.timeout(300)
def test_workers_share_the_cores(tmp_path: Path) -> None:
    """The bounds are wide: the machine may have other work. `make bench` prints the ratios."""
    write_unpacked_archive(tmp_path / "archive", overrides=LESS_TINY.split())
    rows = {row["workers"]: row for row in rows_of(tmp_path / "archive", seconds=12)}
    assert rows[BUSY]["p50, ×"] < 3.5
    assert rows[TOGETHER]["photos a second, ×"] > 0.5
