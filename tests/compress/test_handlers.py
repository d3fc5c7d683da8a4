"""Step types of other packages: a handler is registered for them, and they work like the package's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from compress_models import images, seeded, task_of
from torch import nn

import workbench as wb
from workbench.compress import LayerReport, Step
from workbench.compress.handlers import CHECKS, HANDLERS, Outcome, register_handler
from workbench.compress.steps import STEP_TYPES
from workbench.core.config import option
from workbench.core.errors import ConfigError, RecipeError


@dataclass(frozen=True)
class Scale(Step):
    """Multiply all weights."""

    not_after: ClassVar = {"Quantize": "Quantize must be the last step."}
    factor: float = option(0.5, "factor of the weights", above=0.0)
    allow_untouched: bool = False


@pytest.fixture
def task():
    return task_of(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), *images())


@pytest.fixture
def registered():
    def check(step, task):
        if step.factor > 2:
            raise ConfigError("Scale.factor must be at most 2 here.")

    @register_handler(Scale, check=check)
    def scale(step, work):
        with torch.no_grad():
            for parameter in work.module.parameters():
                parameter.mul_(step.factor)
        return Outcome(work.module, (LayerReport("1", "Linear", True, "scaled"),))

    yield
    for registry in (HANDLERS, CHECKS):
        registry.pop(Scale)
    STEP_TYPES.pop("Scale")


@pytest.mark.usefixtures("registered")
def test_a_step_of_another_package_is_applied(task):
    recipe = wb.Recipe(Scale(factor=0.25), wb.Prune(ratio=0.5, allow_untouched=True))
    assert wb.Recipe.from_json(recipe.to_json()) == recipe
    assert wb.Recipe(Scale()).technique == "scale"
    variant = wb.apply(wb.Recipe(Scale(factor=0.25)), task)
    weight, original = variant.module[1].weight, wb.Variant.original(task).module[1].weight
    assert torch.equal(weight, original * 0.25)
    assert variant.reports[0].step == Scale(factor=0.25)
    assert torch.equal(wb.Recipe(Scale(factor=0.25)).apply(task).module[1].weight, weight)


@pytest.mark.usefixtures("registered")
def test_its_check_runs_before_any_work(task):
    with pytest.raises(ConfigError, match="at most 2"):
        wb.apply(wb.Recipe(Scale(factor=3.0)), task)


def test_a_step_without_a_handler_is_refused(task):
    with pytest.raises(RecipeError, match="Scale"):
        wb.Recipe(Scale())
