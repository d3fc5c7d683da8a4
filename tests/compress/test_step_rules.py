"""Order rules give their reasons."""

from __future__ import annotations

import itertools

import pytest
from compress_models import images, seeded, task_of
from depth_models import Residual

from workbench.compress import Recipe
from workbench.compress.recipe import check_order
from workbench.compress.steps import STEP_TYPES, Distill, Factorize, Prune, PruneDepth, Quantize, Recover, Sparsify
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
        [Prune(), Factorize(), Sparsify(), Distill(), Quantize()],
        [Sparsify(0.3), Recover(), Sparsify(0.6)],
        [PruneDepth(), Distill(), PruneDepth(blocks=1), Distill(), Quantize()],
        [PruneDepth(), Recover(), Prune(), Factorize(), PruneDepth(), Sparsify(), PruneDepth()],
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
        ([Factorize(), Factorize(0.5)], "one Factorize"),
        ([Prune(0.2), Prune(0.3)], "Two Prune steps in a row"),
        ([PruneDepth(), PruneDepth(blocks=2)], "Two PruneDepth steps in a row"),
        ([Quantize(), PruneDepth()], "Quantize must be the last step"),
        ([Sparsify(), Prune()], "removing channels breaks the groups of an N:M pattern"),
        ([Sparsify(), Distill(), Factorize()], "are dense"),
        ([Sparsify(), Sparsify()], "Two Sparsify steps in a row"),
        ([Quantize(), Sparsify()], "Quantize must be the last step"),
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


def _quick(name):
    """Return a step with options that take no time on a tiny model."""
    options = {
        "Distill": {"epochs": 0.1},
        "Recover": {"epochs": 0.1},
        "Factorize": {"ratio": 0.3},
        "Prune": {"ratio": 0.3, "round_to": 1},
    }
    return STEP_TYPES[name](**options.get(name, {}))


def _allowed_pairs():
    for names in itertools.product(STEP_TYPES, repeat=2):
        try:
            check_order([_quick(name) for name in names])
        except RecipeError:
            continue
        yield names


@pytest.mark.slow
@pytest.mark.parametrize("names", list(_allowed_pairs()), ids="-".join)
def test_every_allowed_pair_runs(names, tiny_task):
    # the tiny net's sum stands in the model's own forward: it has no block to remove
    task = task_of(seeded(Residual), *images()) if "PruneDepth" in names else tiny_task
    variant = Recipe(*map(_quick, names)).apply(task)
    assert [type(report.step).__name__ for report in variant.reports] == list(names)
    assert all(report.touched for report in variant.reports)
