"""Steps on a task without a training split: those that train nothing work, the others are refused before any work."""

from __future__ import annotations

import pytest
from compress_models import OptionA, images, seeded, task_of
from torch import nn

import workbench as wb
from workbench.core.errors import ConfigError

BUILD = seeded(OptionA)
X, Y = images(200)


def _task():
    whole = task_of(BUILD, X, Y)
    return wb.Task(name="unit", build=BUILD, evaluation=(X, Y), metric=whole.metric, loss=whole.loss)


TRAINING = [
    (wb.Recipe(wb.Distill(epochs=2)), "Distill(epochs=2)"),
    (wb.Recipe(wb.Prune(0.5), wb.Recover(epochs=1)), "Recover(epochs=1)"),
    (wb.Recipe(wb.Prune(0.5), wb.Recover(epochs=0, batch_norm="reestimate")), "Recover(batch_norm='reestimate')"),
    (wb.Recipe(wb.Prune(0.5, importance="taylor")), "Prune(importance='taylor')"),
    (wb.Recipe(wb.Prune(0.5, sparse_epochs=1)), "Prune(sparse_epochs=1)"),
    (wb.Recipe(wb.Prune(0.5, rounds=2, recover_epochs=1)), "Prune(recover_epochs=1)"),
    (wb.Recipe(wb.Sparsify(0.5, criterion="gradient")), "Sparsify(criterion='gradient')"),
    (wb.Recipe(wb.Sparsify(0.5, rounds=2, recover_epochs=1)), "Sparsify(recover_epochs=1)"),
    (wb.Recipe(wb.Quantize(qat_epochs=1)), "Quantize(qat_epochs=1)"),
]


@pytest.mark.parametrize(("recipe", "words"), TRAINING, ids=[words for _, words in TRAINING])
def test_steps_that_train_are_refused_before_any_work(recipe, words):
    stages = []
    with pytest.raises(ConfigError, match="needs a training split") as error:
        recipe.apply(_task(), progress=lambda progress: stages.append(progress.stage))
    assert words in str(error.value) and not stages


@pytest.mark.parametrize(
    "recipe",
    [
        wb.Recipe(),
        wb.Recipe(wb.Prune(0.25, round_to=1)),
        wb.Recipe(wb.Prune(0.25, round_to=1), wb.Recover(epochs=0, fold=True)),
        wb.Recipe(wb.Factorize(energy=0.5, conv="tucker2")),
        wb.Recipe(wb.Factorize(energy=0.5, whiten=True)),
        wb.Recipe(wb.Sparsify(0.5)),
        wb.Recipe(wb.Quantize()),
    ],
    ids=lambda recipe: recipe.label,
)
def test_steps_that_train_nothing_work(recipe):
    variant = recipe.apply(_task())
    assert 0.0 <= variant.quality <= 1.0 and isinstance(variant.module, nn.Module)
    assert all(step.training_option is None for step in recipe.steps)


def test_a_plan_is_refused_before_the_first_recipe_is_prepared():
    from workbench.study.plan.recipes import check_recipes

    with pytest.raises(ConfigError, match="needs a training split"):
        check_recipes([wb.Recipe(), wb.Recipe(wb.Distill())], _task())


@pytest.mark.parametrize("step", [wb.Distill(epochs=1), wb.Quantize(qat_epochs=1)], ids=["distill", "qat"])
def test_a_single_training_sample_is_refused_before_any_work(step):
    whole = task_of(BUILD, X, Y)

    def task(count):
        return wb.Task(
            name="unit", build=BUILD, train=(X[:count], Y[:count]), evaluation=(X[50:], Y[50:]), metric=whole.metric,
            loss=whole.loss,
        )  # fmt: skip

    assert len(task(3).train) == 1
    with pytest.raises(ConfigError, match="needs at least 2 training samples"):
        wb.Recipe(step).apply(task(3))
    assert len(task(5).train) == 3
    assert wb.Recipe(step).apply(task(5)).reports[0].epochs_done == 1
    assert wb.Recipe(wb.Prune(0.5)).apply(task(3)).params > 0
