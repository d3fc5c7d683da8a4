"""Spaces: what they hold, and what is refused before work starts."""

from __future__ import annotations

import itertools

import pytest

import workbench as wb
from workbench.core.errors import ConfigError

RATIOS = wb.between(0.25, 0.75, step=0.25)


def proposals(space):
    return [space.at(point) for point in space.points()]


def test_the_points_are_the_product_of_what_is_open_and_options_of_a_step_left_out_are_not_there():
    space = wb.Space(
        wb.maybe(wb.vary(wb.Prune, ratio=RATIOS), wb.Recover(epochs=1)),
        wb.maybe(wb.vary(wb.Quantize, observer=wb.choice("minmax", "percentile"))),
        backends=("onnxruntime", "openvino"),
        batch_sizes=(1, 8),
    )
    assert space.size == (1 + 3) * (1 + 2) * 2 * 2 == len(list(space.points()))
    found = {(p.recipe, p.backend, p.batch_size) for p in proposals(space)}
    prunes = [(), *((wb.Prune(r), wb.Recover(epochs=1)) for r in (0.25, 0.5, 0.75))]
    quantizes = [(), *((wb.Quantize(observer=o),) for o in ("minmax", "percentile"))]
    wanted = {
        (wb.Recipe(*p, *q), b, n)
        for p, q, b, n in itertools.product(prunes, quantizes, ("onnxruntime", "openvino"), (1, 8))
    }
    assert found == wanted
    assert set(space.domains) == {"Prune?", "Prune.ratio", "Quantize?", "Quantize.observer", "backend", "batch_size"}


def test_different_points_of_one_backend_and_batch_size_have_different_names():
    space = wb.Space(
        wb.vary(wb.Quantize, observer="percentile", percentile=wb.choice(99.0, 99.9)),
        backends="onnxruntime",
    )
    assert [p.recipe.name for p in proposals(space)] == [
        "int8 percentile, percentile=99",
        "int8 percentile, percentile=99.9",
    ]
    shown = wb.Space(wb.vary(wb.Prune, ratio=RATIOS), backends="onnxruntime")
    assert [p.recipe.name for p in proposals(shown)] == ["prune 0.25", "prune 0.5", "prune 0.75"]


def test_whole_recipes_and_steps_may_be_chosen_among_and_one_kind_of_step_may_stand_twice():
    chain = wb.Recipe(wb.Prune(0.5), wb.Quantize(), name="chain")
    space = wb.Space(wb.choice(None, chain, wb.Factorize(), wb.vary(wb.Quantize, bits=8)), backends="openvino")
    assert [p.recipe for p in proposals(space)] == [
        wb.Recipe(), chain, wb.Recipe(wb.Factorize()), wb.Recipe(wb.Quantize())
    ]  # fmt: skip
    two = wb.Space(
        wb.choice(
            wb.vary(wb.Quantize, observer=wb.choice("minmax", "mse")), wb.vary(wb.Quantize, bits=4, activations="none")
        ),
        backends="openvino",
    )
    assert two.size == 3 and {"Quantize.observer"} < set(two.domains)
    twice = wb.vary(wb.Prune, ratio=RATIOS)
    space = wb.Space(twice, wb.Recover(epochs=1), twice, backends="openvino")
    assert space.size == 9 and {"Prune.ratio", "Prune#2.ratio"} == set(space.domains)


def test_engine_options_are_left_out_where_they_mean_nothing_and_defaults_are_not_kept():
    space = wb.Space(
        backends=("onnxruntime", "openvino"),
        engine={"streams": wb.choice(1, 2), "threads": wb.between(1, 2), "precision": wb.choice("float32", "bfloat16")},
    )
    assert space.size == 2 * 2 + 2 * 2 * 2
    found = proposals(space)
    assert {p.options for p in found if p.backend == "onnxruntime"} == {(), (("precision", "bfloat16"),)}
    assert {p.options for p in found if p.backend == "openvino"} == {
        (("streams", n), *more) for n in (1, 2) for more in ((), )
    } | {(("precision", "bfloat16"), ("streams", n)) for n in (1, 2)}  # fmt: skip
    assert {p.threads for p in found} == {1, 2}


def test_an_endless_range_has_no_size_and_a_stepped_one_ends_where_its_steps_do():
    assert wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.8)), backends="openvino").size is None
    assert wb.between(0.1, 0.75, step=0.2).values() == (0.1, 0.3, 0.5, 0.7)
    assert wb.between(1, 5, step=2).values() == (1, 3, 5) and wb.between(1, 3).whole
    assert wb.between(0.1, 0.9, step=0.2).nearest(0.62) == 0.7 and wb.between(0.1, 0.9).nearest(2.0) == 0.9


def test_equal_spaces_have_equal_dicts_and_others_do_not():
    def make(high=0.8, **more):
        return wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, high)), backends="openvino", **more).to_dict()

    assert make() == make()
    assert make() != make(0.7) != make(seed=1) and make() != make(engine={"threads": wb.choice(1, 2)})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: wb.between(0.8, 0.1), "low must be below high"),
        (lambda: wb.between(0.5, 0.5), "low must be below high"),
        (lambda: wb.between(True, 2), "low must be a finite number, got True"),
        (lambda: wb.between(0.1, float("nan")), "high must be a finite number"),
        (lambda: wb.between(0.1, "1"), "high must be a finite number"),
        (lambda: wb.between(0.1, 0.8, step=0), "step must be above 0"),
        (lambda: wb.between(0.1, 0.8, step=2), "step must be above 0 and at most"),
        (lambda: wb.between(1, 8, step=0.5), "step must be an integer"),
        (lambda: wb.between(0.0, 1.0, log=True), "start above 0"),
        (lambda: wb.choice(), "must have options"),
        (lambda: wb.choice([1, 2]), "one by one"),
        (lambda: wb.choice("a", "b", "a"), "'a' .* twice"),
        (lambda: wb.maybe(), "must have steps"),
        (lambda: wb.maybe(None), "maybe must have steps"),
        (lambda: wb.Space(backends=3), r"must be a list or tuple, got 3 \(int\).$"),
        (lambda: wb.Space(batch_sizes=None), "must be a list or tuple, got None.$"),
        (lambda: wb.vary(wb.Prune, rati=wb.between(0.1, 0.8)), "Did you mean 'ratio'"),
        (lambda: wb.vary(wb.Prune, ratio=wb.between(0.1, 1.5)), "Prune.ratio must be above 0 and below 1, got 1.5"),
        (lambda: wb.vary(wb.Prune, ratio=wb.choice(True, 0.5)), "Prune.ratio must be float, got True"),
        (lambda: wb.vary(wb.Quantize, observer=wb.choice("minmax", "max")), "Unknown value 'max'"),
        (lambda: wb.vary("Prune"), "step must be one of"),
        (lambda: wb.Space(wb.Prune), r"Write wb.vary\(wb.Prune"),
        (lambda: wb.Space(wb.Recipe(wb.Prune())), r"go into wb.choice\(recipe"),
        (lambda: wb.Space("prune"), "parts must be steps"),
        (lambda: wb.Space(backends=()), "backends is empty"),
        (lambda: wb.Space(backends="onnxruntim"), "Did you mean 'onnxruntime'"),
        (lambda: wb.Space(batch_sizes=()), "batch_sizes is empty"),
        (lambda: wb.Space(batch_sizes=(True,)), "integer of at least 1, got True"),
        (lambda: wb.Space(batch_sizes=0), "at least 1"),
        (lambda: wb.Space(seed=-1), "at least 0"),
        (lambda: wb.Space(engine=["threads"]), "options by name"),
        (lambda: wb.Space(engine={"thread": 1}), "Did you mean 'threads'"),
        (lambda: wb.Space(engine={"threads": wb.choice(0, 1)}), "threads must be at least 1"),
        (lambda: wb.Space(engine={"batch_size": wb.choice(1, 2)}), "cannot hold 'batch_size'"),
        (lambda: wb.Space(engine={"providers": ("cpu",)}), "plain values"),
        (lambda: wb.Space(engine={"precision": wb.choice("float32", "float8")}), "float8"),
        (lambda: wb.Space(engine={"streams": 2}, backends="onnxruntime"), "needs the backend"),
        (lambda: wb.Space(wb.maybe(wb.Prune()), wb.Recover(epochs=1)), r"prune 0.5\?=False.*Recover regains"),
        (lambda: wb.Space(wb.vary(wb.Quantize, bits=wb.choice(8, 4))), r"Quantize.bits=4.*4-bit integer kernels"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_choice_whose_name_has_a_point_in_it_is_no_option_of_a_recipe():
    space = wb.Space(
        wb.choice(None, wb.Prune(0.25), wb.vary(wb.Factorize, ratio=wb.choice(0.2, 0.4))),
        wb.Quantize(),
        backends="openvino",
    )
    names = [space.at(point).recipe.name for point in space.points()]
    assert "0.25" in space.template[0].name
    assert names[:2] == ["int8", "prune 0.25 + int8"] and not any("=None" in name for name in names)
