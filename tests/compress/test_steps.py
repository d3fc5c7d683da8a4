"""Steps: their checks, their JSON, their words."""

from __future__ import annotations

import pytest

from workbench.compress.steps import (
    STEP_TYPES,
    Distill,
    Factorize,
    Prune,
    PruneDepth,
    Quantize,
    Recover,
    Sparsify,
    step_from_dict,
    step_to_dict,
)
from workbench.core.errors import ConfigError, RecipeError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prune(ratio=1.5), "Prune.ratio must be above 0 and below 1, got 1.5"),
        (lambda: Prune(ratio="half"), "Prune.ratio must be float"),
        (lambda: Prune(importance="randm"), "Did you mean 'random'"),
        (lambda: Distill(temperature=0), "Distill.temperature must be above 0"),
        (lambda: Distill(alpha=1.1), "at most 1"),
        (lambda: Recover(batch_size=1), "at least 2"),
        (lambda: Factorize(types=("Conv3d",)), "Did you mean 'Conv2d'"),
        (lambda: Quantize(bits=3), "Quantize.bits"),
        (lambda: Quantize(reduce_range="yes"), "Quantize.reduce_range"),
        (lambda: Quantize(activations="none", qat_epochs=1), "requires activations='static'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(make, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.").replace("(", r"\(")):
        make()


@pytest.mark.parametrize(
    "step",
    [
        Prune(ratio=0.3, exclude=("stem", "blocks.*")),
        Distill(epochs=0.5, max_seconds=4),
        Distill(features=("a", "b=c"), heads=("logits=1", "boxes=0.1:mse"), teacher="a.py:f", alpha_end=0, patience=2),
        Recover(learning_rate=0.01),
        Recover(epochs=0, batch_norm="reestimate", fold=True),
        Factorize(ratio=0.25, types=("Linear",)),
        Quantize(qat_epochs=2, reduce_range=True),
    ],
)
def test_a_step_comes_back_from_its_dict(step):
    values = step_to_dict(step)
    assert values["step"] == type(step).__name__
    assert step_from_dict(values) == step
    assert hash(step_from_dict(values)) == hash(step)


def test_options_left_out_take_their_defaults():
    assert step_from_dict({"step": "Prune", "ratio": 0.25}) == Prune(ratio=0.25)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean 'Quantize'"):
        step_from_dict({"step": "Quantise"})
    with pytest.raises(ConfigError, match="Did you mean 'ratio'"):
        step_from_dict({"step": "Prune", "ration": 0.5})
    with pytest.raises(RecipeError, match="needs its name"):
        step_from_dict({"ratio": 0.5})


def test_every_step_has_words_of_its_own():
    words = [make().label for make in STEP_TYPES.values()]
    assert words == ["prune 0.5", "depth 0.3", "distill", "recover", "low-rank 0.9 energy", "sparse 0.5", "int8"]
    assert Quantize(activations="none").label == "int8 weights"
    assert Quantize(qat_epochs=1).label == "int8 qat"
    assert Prune(0.25, scope="global").label == "prune 0.25 global"
    assert PruneDepth(blocks=8).label == "depth -8"
    assert Factorize(ratio=0.5).label == "low-rank 0.5"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prune(recover_epochs=2.0), r"recover_epochs=2.0 would do nothing. Set rounds above 1"),
        (lambda: Prune(schedule="cubic"), "schedule='cubic' would do nothing"),
        (lambda: Prune(engine="openvino"), "Set of='latency'"),
        (lambda: Sparsify(pattern="2:4", ratio=0.3), "give one of the two"),
        (lambda: PruneDepth(0.5, blocks=2), "leave one of the two out"),
        (lambda: PruneDepth(engine="openvino"), "Set measure_latency=True"),
        (lambda: PruneDepth(exclude=(len,)), "is a function"),
        (lambda: Quantize(percentile=99.0), "Set observer='percentile'"),
        (lambda: Quantize(learning_rate=1e-3), "set qat_epochs above 0"),
        (lambda: Factorize(ratio=0.3, energy=0.5), "ratio chooses the rank"),
        (lambda: Distill(features=(), feature_weight=2.0), "Name layers in features"),
        (lambda: Prune(exclude="head"), r"must be tuple of str, got 'head' \(str\). Write exclude=\('head',\)"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
