"""Order rules give their reasons."""

from __future__ import annotations

import pytest

from workbench.compress.order import check_order
from workbench.compress.steps import Distill, Factorize, Prune, Quantize, Recover
from workbench.core.errors import RecipeError


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [Quantize()],
        [Distill()],
        [Prune(), Recover()],
        [Prune(), Distill(), Factorize(), Recover(), Quantize()],
        [Prune(0.2), Distill(), Prune(0.2), Distill()],
    ],
)
def test_orders_that_work(steps):
    check_order(steps)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([Quantize(), Prune()], "Quantize must be the last step"),
        ([Quantize(), Quantize()], "Quantize must be the last step"),
        ([Quantize(), Distill()], "qat_epochs"),
        ([Factorize(), Prune()], "Prune must come before Factorize"),
        ([Factorize(), Factorize(0.5)], "low-rank already"),
        ([Prune(0.2), Prune(0.3)], "Two Prune steps in a row"),
        ([Recover()], "put one of them before it"),
        ([Distill(), Recover()], "put one of them before it"),
    ],
)
def test_orders_that_cannot_work_say_why(steps, reason):
    with pytest.raises(RecipeError, match=reason):
        check_order(steps)


def test_what_is_no_step_is_refused():
    with pytest.raises(RecipeError, match="not a step"):
        check_order([Prune])
    with pytest.raises(RecipeError, match="not a step"):
        check_order(["prune"])
