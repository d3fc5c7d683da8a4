"""Sensitivity.fit: the step of a table that holds its goal as a whole, against measuring it by hand."""

from __future__ import annotations

import pytest
import torch
from compress_models import images, plain_net, seeded, task_of

from workbench.compress import Prune, Quantize, Recipe
from workbench.compress.sensitivity import Sensitivity, sensitivity
from workbench.compress.sensitivity.evaluator import largest_holding
from workbench.core.errors import Cancelled, ConfigError


@pytest.fixture(scope="module")
def task():
    return task_of(seeded(plain_net), *images(80))


def whole_loss(task, table, step):
    """Return what a step costs as a whole: drop, or share of the error in the energy, by the variant's own outputs."""
    module = Recipe(step).apply(task).module
    if table.measure == "quality":
        return table.base - task.evaluate(module, split="validation")
    with torch.no_grad():
        want, got = task.model()(task.calibration.inputs), module(task.calibration.inputs)
    return float(((want - got) ** 2).sum() / (want**2).sum())


@pytest.mark.parametrize(("technique", "goal_db"), [("factorize", 8.0), (Quantize(activations="none"), 40.0)])
def test_the_step_holds_its_signal_to_error_ratio_as_a_whole(task, technique, goal_db):
    table = sensitivity(
        task, technique, settings=() if technique != "factorize" else (0.1, 0.2, 0.4), measure="sqnr_db"
    )
    step = table.fit(task, sqnr_db=goal_db)
    assert whole_loss(task, table, step) <= 10 ** (-goal_db / 10)
    assert any(layer.touched for layer in Recipe(step).apply(task).reports[0].layers)


def test_the_step_holds_its_drop_as_a_whole(task):
    table = sensitivity(task, "prune", settings=(0.25, 0.5))
    drop = max(0.0, whole_loss(task, table, Prune(0.5))) + 1e-9
    assert table.fit(task, drop=drop) == table.step(drop=1.0)  # all layers at their largest hold it


def steps_by_sum(allowed):
    """Return a step that grows with the allowance; its ratio is what is lost."""
    if allowed < 0.01:
        raise ConfigError("every layer costs more than that")
    return Prune(ratio=min(0.9, round(allowed, 2)))


def test_a_sum_that_promises_too_much_is_cut_until_the_whole_holds():
    tried = []

    def twice(step):
        tried.append(step.ratio)
        return 2 * step.ratio

    step = largest_holding(steps_by_sum, twice, 0.4, tries=8)
    assert 2 * step.ratio <= 0.4
    assert step.ratio == pytest.approx(0.2, abs=0.01)
    assert len(tried) == len(set(tried)) <= 8


def test_a_sum_that_promises_too_little_is_widened():
    step = largest_holding(steps_by_sum, lambda step: step.ratio / 3, 0.1, tries=8)
    assert step.ratio == pytest.approx(0.3, abs=0.02)
    assert largest_holding(steps_by_sum, lambda step: 0.0, 0.1, tries=8).ratio == 0.9


def test_a_goal_that_nothing_holds_is_said_with_what_was_measured():
    with pytest.raises(ConfigError, match=r"no step holds 0.1 .* measured, .*: 1, 1, 1\. Allow more"):
        largest_holding(steps_by_sum, lambda step: 1.0, 0.1, tries=3)
    with pytest.raises(ConfigError, match="every layer costs more"):
        largest_holding(steps_by_sum, lambda step: 0.0, 0.001, tries=3)


def test_what_does_not_fit_is_refused_before_any_work(task):
    table = sensitivity(task, "prune", settings=(0.5,))
    other = task_of(seeded(plain_net), *images(80))
    object.__setattr__(other, "name", "another")
    for arguments, words in (
        ({}, "give drop"),
        ({"drop": 0.1, "tries": 0}, "tries"),
        ({"drop": 0.1, "seed": -1}, "seed"),
        ({"drop": 0.1, "progress": 3}, "progress"),
    ):
        with pytest.raises(ConfigError, match=words):
            table.fit(task, **arguments)
    with pytest.raises(ConfigError, match="the table is of task 'unit', got 'another'"):
        table.fit(other, drop=0.1)


def test_it_can_be_cancelled(task):
    table: Sensitivity = sensitivity(task, "prune", settings=(0.5,))

    def cancel(_):
        raise Cancelled

    with pytest.raises(Cancelled):
        table.fit(task, drop=1.0, progress=cancel)
