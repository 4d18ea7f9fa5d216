"""The schedule that ``--minutes`` makes of measured times."""

import pytest

from finetune.configs.keys import get_config
from finetune.errors import UserError
from finetune.training.schedule import fit_schedule

SHAPE = "SOLVER.MAX_ITER 700 SOLVER.WARMUP_ITERS 50 SOLVER.STEPS (350,600) SOLVER.CHECKPOINT_PERIOD 100"


def fit(seconds: tuple[float, float, float], more: str = "TEST.EVAL_PERIOD 100") -> tuple:
    cfg = get_config("mobilenetv2_fpn", [*SHAPE.split(), *more.split()])
    words = fit_schedule(cfg, *seconds)
    solver = cfg.SOLVER
    assert words.endswith(f"SOLVER.MAX_ITER is {solver.MAX_ITER} instead of 700")
    return (*map(solver.get, "MAX_ITER WARMUP_ITERS STEPS CHECKPOINT_PERIOD".split()), cfg.TEST.EVAL_PERIOD)


@pytest.mark.parametrize(
    ("left", "step", "evaluation", "fitted"),
    [
        (1125, 1, 100 / 7, (800, 57, (400, 686), 115, 115)),
        # a quarter is enough for four evaluations, not for seven
        (2000, 2, 100, (600, 43, (300, 514), 86, 150)),
        (20, 1, 50, None),
        (10, 9, 0.1, None),
        (-5, 1, 0.1, None),
        (20, 2, 5, (5, 0, (2, 4), 1, 5)),  # one evaluation there is always
    ],
)
def test_all_that_fits_into_80_percent_of_the_time(left, step, evaluation, fitted):
    if fitted:
        assert fit((left, step, evaluation)) == fitted
    else:
        with pytest.raises(UserError, match="--minutes is too short"):
            fit((left, step, evaluation))


def test_periods_of_zero_stay_off():
    more = "TEST.EVAL_PERIOD 0 SOLVER.CHECKPOINT_PERIOD 0"
    assert fit((1000, 1, 100), more) == (700, 50, (350, 600), 0, 700)
