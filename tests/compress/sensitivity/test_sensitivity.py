"""Sensitivity: single layers against numpy and the steps themselves; values per layer against exhaustive search."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from compress_models import images, plain_net, seeded, task_of
from hypothesis import given, settings, strategies as st
from paths import SUPPORT
from torch import nn

import workbench as wb
from workbench.compress import Factorize, Prune, Quantize, Recipe
from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.pareto_allocation import allocate, lower_hull
from workbench.compress.sensitivity import Cell, Sensitivity, evaluator, sensitivity
from workbench.core.errors import Cancelled, ConfigError


def net_task():
    return task_of(seeded(plain_net), *images(80))


def outputs_with(task, name, weight):
    """Return the outputs on the calibration split with another weight in one layer."""
    module = task.model()
    with torch.no_grad():
        module.get_submodule(name).weight.copy_(torch.from_numpy(weight))
        return module(task.calibration.inputs)


def sqnr(task, outputs):
    with torch.no_grad():
        reference = task.model()(task.calibration.inputs).double().numpy()
    error = reference - outputs.double().numpy()
    return 10 * math.log10((reference**2).sum() / (error**2).sum())


def test_pruning_one_layer_is_the_step_with_one_ratio():
    task = net_task()
    frame = sensitivity(task, "prune", settings=(0.5,)).frame().set_index("layer")
    assert list(frame.index) == ["0", "2", "6"]
    model = task.model()
    for name in frame.index:
        variant = Recipe(Prune(ratios=("*=0", f"{name}=0.5"))).apply(task)
        assert frame.loc[name, "quality"] == variant.quality
        assert frame.loc[name, "params_share"] == pytest.approx(variant.params / count_params(model))
        assert frame.loc[name, "macs_share"] == pytest.approx(variant.macs / count_macs(model, task.examples(2)))
    base = task.evaluate(lambda x: model(x), split="validation")
    assert np.allclose(frame["quality_drop"], base - frame["quality"])


def test_a_lower_rank_in_one_layer_is_numpys_truncation():
    task = net_task()
    table = sensitivity(task, Factorize(min_saving=0), settings=(0.25, 0.75), measure="sqnr_db", layers=("2", "6"))
    frame = table.frame().set_index(["layer", "setting"])
    for name, share in itertools.product(("2", "6"), (0.25, 0.75)):
        weight = task.model().get_submodule(name).weight.detach().numpy()
        u, s, v = np.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
        rank = round(share * len(s))
        cut = ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(weight.shape)
        found = frame.loc[(name, share)]
        if rank * (weight.shape[0] + weight[0].size) >= weight.size:
            assert math.isnan(found["sqnr_db"]) and "break-even" in found["note"]
        else:
            assert found["sqnr_db"] == pytest.approx(sqnr(task, outputs_with(task, name, cut)), abs=0.01)
    assert frame["sqnr_db"].notna().sum() == 3


def test_bits_of_one_layer_are_a_rounding_by_hand():
    task = net_task()
    frame = sensitivity(task, Quantize(activations="none"), measure="sqnr_db").frame().set_index("layer")
    assert list(frame.index) == ["0", "2", "6", "7"]
    for name in frame.index:
        weight = task.model().get_submodule(name).weight.detach().numpy()
        scale = np.abs(weight).reshape(len(weight), -1).max(1).reshape(-1, *[1] * (weight.ndim - 1)) / 127
        by_hand = sqnr(task, outputs_with(task, name, np.rint(weight / scale) * scale))
        assert frame.loc[name, "sqnr_db"] == pytest.approx(by_hand, abs=0.5)
        share = weight.size / count_params(task.model())
        assert frame.loc[name, "size_share"] == pytest.approx(1 - 0.75 * share)
        assert frame.loc[name, "macs_share"] == 1


def test_what_was_measured_is_kept_and_a_cancelled_run_goes_on(monkeypatch):
    task, done = net_task(), []
    real = evaluator.run_step
    monkeypatch.setattr(evaluator, "run_step", lambda step, work: (done.append(step), real(step, work))[1])

    def stop(progress):
        if progress.done >= 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        sensitivity(task, "factorize", settings=(0.25, 0.5), progress=stop)
    assert len(done) == 3  # finding the layers, and two cells
    seen = []
    whole = sensitivity(task, "factorize", settings=(0.25, 0.5), progress=seen.append)
    assert len(done) == 1 + len(whole.cells)
    assert (seen[-1].done, seen[-1].total) == (len(whole.cells), len(whole.cells))
    assert sensitivity(task, "factorize", settings=(0.25, 0.5)) == whole
    assert len(done) == 1 + len(whole.cells)
    sensitivity(task, "factorize", settings=(0.25, 0.5), cache=False)
    assert len(done) == 2 * (1 + len(whole.cells))


def test_a_damaged_cache_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    task = net_task()
    table = sensitivity(task, "factorize", settings=(0.25,))
    (path,) = (tmp_path / "sensitivity").iterdir()
    path.write_text('{"cells": ')
    assert sensitivity(task, "factorize", settings=(0.25,)) == table


def test_the_evaluation_split_is_not_used(monkeypatch):
    task = net_task()
    task.check()  # looks at the shapes of a few samples of every split
    splits = []
    real = type(task).outputs
    monkeypatch.setattr(
        type(task),
        "outputs",
        lambda self, predict, split="evaluation", *a: (splits.append(split), real(self, predict, split, *a))[1],
    )
    sensitivity(task, "factorize", settings=(0.25,))
    sensitivity(task, "factorize", settings=(0.25,), measure="sqnr_db")
    assert set(splits) == {"validation", "calibration"}


def test_the_step_of_a_table_holds_its_goal_on_a_real_model():
    task = net_task()
    table = sensitivity(task, "prune", settings=(0.25, 0.5))
    step = table.step(drop=1.0)
    assert step.ratios == ("*=0", *(f"{name}=0.5" for name in ("0", "2", "6")))
    assert Recipe(step).apply(task).macs == Recipe(Prune(0.5)).apply(task).macs
    noise = sensitivity(task, "factorize", settings=(0.25, 0.5), measure="sqnr_db", layers=("2", "6"))
    variant = Recipe(noise.step(sqnr_db=1.0)).apply(task)
    assert variant.recipe.label == "low-rank by layer"
    assert {report.name for report in variant.reports[0].layers if report.touched} == set(noise.settings(sqnr_db=1.0))
    bits = sensitivity(task, Quantize(activations="none"), measure="sqnr_db")
    goal = bits.frame()["sqnr_db"].min() + 0.5  # the worst layer alone would miss it
    rounded = bits.step(sqnr_db=goal)
    touched = {report.name for report in Recipe(rounded).apply(task).reports[0].layers if report.touched}
    assert touched == set(bits.settings(sqnr_db=goal)) and 0 < len(touched) < 4


def table_of(cells, measure="quality", technique="prune", base=0.9):
    made = tuple(
        Cell(layer, "Conv2d", (layer,), setting, value, cost, cost, cost) for layer, setting, value, cost in cells
    )
    return Sensitivity("t", technique, measure, base, Prune(), tuple(dict.fromkeys(c.layer for c in made)), made)


def test_layers_give_up_what_costs_least_until_the_goal_is_reached():
    table = table_of(
        [
            ("a", 0.25, 0.91, 0.95),  # better than before: noise
            ("a", 0.5, 0.88, 0.9),
            ("b", 0.25, 0.70, 0.9),
            ("b", 0.5, None, 1.0),
            ("c", 0.5, 0.89, 0.7),
        ]
    )
    assert table.settings(drop=0.0) == {"a": 0.25}
    assert table.settings(drop=0.011) == {"a": 0.25, "c": 0.5}
    assert table.settings(drop=0.03) == {"a": 0.5, "c": 0.5}
    assert table.step(drop=0.03).ratios == ("*=0", "a=0.5", "c=0.5")
    assert table.saved({"a": 0.5, "c": 0.5}) == pytest.approx(0.4)
    frame = table.frame()
    assert frame["quality"].isna().sum() == 1
    with pytest.raises(ConfigError, match=r"step\(drop=0\): every layer costs more"):
        table_of([("a", 0.5, 0.1, 0.5)]).step(drop=0)


def test_errors_of_layers_add_up_in_energy():
    table = table_of([("a", 8, 0.001, 0.9), ("b", 8, 0.001, 0.9), ("c", 8, 0.02, 0.9)], measure="sqnr_db", base=0.0)
    assert table.settings(sqnr_db=30) == {"a": 8}
    assert table.settings(sqnr_db=10 * math.log10(1 / 0.0021)) == {"a": 8, "b": 8}
    assert table.frame()["sqnr_db"].tolist() == pytest.approx([30, 30, 16.9897], abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(10, 95), st.floats(0, 0.5)), min_size=1, max_size=3), min_size=1, max_size=3
    )
)
def test_the_walk_loses_least_for_what_it_saves(layers):
    points = {str(i): [(100, 0.0), *layer] for i, layer in enumerate(layers)}
    paths = {name: [p[place] for place in lower_hull(p)] for name, p in points.items()}
    at = dict.fromkeys(paths, 0)

    def accept(name, place):
        assert place == at[name] + 1
        at[name] = place
        saved = sum(100 - paths[n][at[n]][0] for n in paths)
        lost = sum(paths[n][at[n]][1] for n in paths)
        for way in itertools.product(*points.values()):
            if sum(100 - cost for cost, _ in way) >= saved:
                assert sum(loss for _, loss in way) >= lost - 1e-9
        return True

    allocate(paths, accept)
    assert all(at[name] == len(path) - 1 for name, path in paths.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prun",), "Did you mean 'prune'"),
        (("distill",), "Unknown technique 'distill'"),
        ((3,), r"technique must be 'prune' or .*wb.Prune\(...\), got 3 \(int\)"),
        ((Recipe(Prune()),), "technique must be .*got Recipe"),
        ((Prune(ratios=("a=0.5",)),), "ratios of the step to prune must be empty"),
    ],
)
def test_a_technique_that_is_not_one_is_named(arguments, words):
    with pytest.raises(ConfigError, match=words):
        sensitivity(net_task(), *arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": (1.5,)}, "above 0 and below 1, got 1.5"),
        ({"settings": (True,)}, "above 0 and below 1"),
        ({"measure": "sqnr"}, "Did you mean 'sqnr_db'"),
        ({"layers": ("9",)}, "no layer that factorize can change is called '9'"),
        ({"settings": (math.nan,)}, "above 0 and below 1, got nan"),
        ({"settings": ("0.5",)}, "above 0 and below 1, got '0.5'"),
        ({"settings": 0.5}, r"settings must be a list or tuple, got 0.5 \(float\). Write settings=\(0.5,\)"),
        ({"layers": "head"}, r"Write layers=\('head',\)"),
        ({"layers": (3,)}, r"layers must hold names of layers, got 3 \(int\)"),
        ({"seed": "x"}, "seed must be an integer of at least 0, got 'x'"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"progress": 1}, "progress must be a function"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        wb.sensitivity(net_task(), "factorize", **options)
    with pytest.raises(ConfigError, match=r"settings of .*8 bits, got 5"):
        wb.sensitivity(net_task(), "quantize", settings=(5,))


def test_a_goal_of_the_other_measure_is_refused():
    table = table_of([("a", 0.5, 0.8, 0.5)])
    for goal in ({}, {"sqnr_db": 20.0}, {"drop": 0.1, "sqnr_db": 20.0}):
        with pytest.raises(ConfigError, match="This table measured quality: give drop"):
            table.settings(**goal)
    with pytest.raises(ConfigError, match="Did you mean 'macs'"):
        table.settings(drop=0.1, of="mac")
    with pytest.raises(ConfigError, match="at least 0"):
        table.settings(drop=-0.1)


@pytest.mark.parametrize("goal", [math.nan, math.inf, "0.1", True, [0.1]])
@pytest.mark.parametrize(("measure", "word"), [("quality", "drop"), ("sqnr_db", "sqnr_db")])
def test_a_goal_that_is_no_finite_number_is_refused(measure, word, goal):
    table = table_of([("a", 0.5, 0.8, 0.5)], measure=measure)
    for ask in (table.settings, table.step):
        with pytest.raises(ConfigError, match=f"{word} must be a finite number, got "):
            ask(**{word: goal})
    assert table.settings(**{word: np.float32(0.5)}) == table.settings(**{word: 0.5})


@pytest.mark.parametrize("technique", ["prune", "factorize", "quantize"])
def test_a_table_without_rows_answers_in_words(technique):
    empty = table_of([], technique=technique)
    full = table_of([("a", 0.5, 0.8, 0.5)])
    assert empty.frame().empty
    assert list(empty.frame().columns) == list(full.frame().columns)
    assert empty.settings(drop=0.1) == {}
    with pytest.raises(ConfigError, match=f"no rows, because {technique} can change no layer at its settings"):
        empty.step(drop=0.1)
    with pytest.raises(ConfigError, match=r"saved takes a dict .*got 3 \(int\)"):
        full.saved(3)
    assert repr(empty) == f"Sensitivity({technique} of task 't', quality: 0 layers)"
    assert repr(full) == "Sensitivity(prune of task 't', quality: 1 layers at 0.5)"


def chained():
    """Return a model in which two convolutions are pruned together: their outputs are added."""

    class Chained(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.third, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

        def forward(self, x):
            x = self.first(x).relu()
            return self.head(self.third((x + self.second(x)).relu()).relu().mean((2, 3)))

    return Chained()


def test_progress_ends_at_its_total_although_layers_change_together():
    task = task_of(seeded(chained), *images(60))
    for _ in range(2):  # measured, and from the cache
        events = []
        table = sensitivity(task, Prune(round_to=4), settings=(0.25, 0.5), progress=events.append)
        assert table.cells[0].members == ("first", "second")
        assert len(table.cells) == 4
        assert (events[-1].done, events[-1].total) == (4, 4)
        counted = [event for event in events if event.total]
        assert [event.done for event in counted] == sorted(event.done for event in counted)
        assert all(event.done <= event.total for event in counted)
    events = []
    assert not sensitivity(net_task(), Prune(), settings=(0.05,), progress=events.append).cells
    assert events[-1].fraction == 1


def test_a_task_may_be_named():
    spec = f"{SUPPORT / 'tiny.py'}:tiny"
    table = sensitivity(spec, "prune", settings=(0.5,), layers=("hidden",), measure="sqnr_db")
    assert {cell.layer for cell in table.cells} == {"hidden"}


def test_other_settings_find_their_own_layers():
    task = net_task()
    assert sensitivity(task, Prune(), settings=(0.05,)).frame().empty  # round_to lets nothing go
    found = sensitivity(task, Prune(), settings=(0.5,)).frame()
    assert list(found["layer"]) == ["0", "2", "6"]
    fresh = sensitivity(task, Prune(), settings=(0.5,), cache=False).frame()
    assert found.equals(fresh)


def test_attention_has_weights_of_its_own_name():
    def build():
        block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        return nn.Sequential(nn.Linear(8, 16), block, nn.Flatten(), nn.Linear(64, 4))

    x = torch.randn(60, 4, 8, generator=torch.Generator().manual_seed(0))
    task = task_of(seeded(build), x, torch.arange(60) % 4)
    table = sensitivity(task, "quantize", settings=(8,), measure="sqnr_db", layers=("1.linear1",))
    assert {"0", "1.linear1", "1.linear2"} <= set(table.layers)
    assert list(table.frame()["layer"]) == ["1.linear1"] and table.cells[0].value > 0


class TwoHeads(nn.Module):
    """A small output beside a large one, and a weight that the model itself owns."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(16, 1, 3, 3))
        self.small, self.large = nn.Linear(16, 4), nn.Linear(16, 64)

    def forward(self, x):
        """Return outputs [n, 4] and [n, 64], the second a hundred times as large."""
        x = nn.functional.conv2d(x, self.own, padding=1).relu().mean((2, 3))
        return {"small": self.small(x), "large": 100 * self.large(x)}


def two_heads_task():
    inputs, labels = images(80)
    return task_of(
        seeded(TwoHeads),
        inputs,
        labels,
        metric=lambda out, y: float((out["small"].argmax(1) == y).float().mean()),
        loss=lambda out, y: nn.functional.cross_entropy(out["small"], y),
    )


def test_a_large_output_does_not_hide_what_a_small_one_loses():
    task = two_heads_task()
    table = sensitivity(task, "factorize", settings=(0.25,), measure="sqnr_db", layers=("small",))
    whole = task.model()
    cut = task.model()
    with torch.no_grad():
        u, s, v = np.linalg.svd(whole.small.weight.detach().numpy(), full_matrices=False)
        cut.small.weight.copy_(torch.from_numpy(u[:, :1] * s[:1] @ v[:1]))
        want, got = (m(task.calibration.inputs)["small"].double() for m in (whole, cut))
    share = float(((want - got) ** 2).sum() / (want**2).sum())
    (cell,) = table.cells
    assert cell.value == pytest.approx(share / 2, rel=1e-4)  # the large output loses nothing


def test_a_weight_that_the_model_owns_is_no_layer_of_the_table():
    table = sensitivity(two_heads_task(), Quantize(activations="none"), measure="sqnr_db")
    assert table.layers == ("small", "large")


@pytest.mark.parametrize("step", [Prune(0.5), Factorize(ratio=0.25), Quantize()])
def test_the_model_itself_has_a_name_in_reports(step):
    step = step.replace(allow_untouched=True)
    names = {layer.name for layer in Recipe(step).apply(two_heads_task()).reports[0].layers}
    assert "" not in names and "(model)" in names
