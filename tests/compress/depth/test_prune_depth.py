"""PruneDepth as a step: which blocks leave, in which order, and what the report says."""

from __future__ import annotations

import pytest
import torch
from compress_models import images, seeded, task_of
from depth_models import Block, DropPathTower, Encoder, Plain, Residual, TiedTower, without_effect
from torch import nn
from torch.nn import functional as F

import workbench as wb
from workbench.compress.model_ops import count_macs, count_params
from workbench.core.errors import ConfigError, CoverageError


def residual_task(factory=Residual, **options) -> wb.Task:
    return task_of(seeded(factory), *images(), **options)


def removed(variant: wb.Variant, step: int = 0) -> list[str]:
    return [layer.name for layer in variant.reports[step].layers if layer.touched]


def divergence(task: wb.Task, module: nn.Module, samples: int) -> float:
    """Return KL(original || module) in plain torch, on the first calibration samples."""
    inputs = task.calibration.take(range(samples)).inputs
    with torch.no_grad():
        wanted, got = F.softmax(task.model()(inputs).double(), 1), F.softmax(module(inputs).double(), 1)
    return float((wanted * (wanted / got).log()).sum(1).mean())


def test_a_block_without_effect_leaves_first_and_the_outputs_stay():
    task = residual_task(without_effect)
    variant = wb.Recipe(wb.PruneDepth(blocks=1)).apply(task)
    assert removed(variant) == ["one.1"]
    assert torch.equal(variant.predict(task.examples(5)), task.model()(task.examples(5)))
    report = {layer.name: layer for layer in variant.reports[0].layers}
    assert "KL divergence +0," in report["one.1"].reason
    assert variant.reports[0].quality_after == variant.reports[0].quality_before


def test_figures_after_it_are_those_of_the_model_without_the_blocks():
    task = residual_task()
    variant = wb.Recipe(wb.PruneDepth(blocks=2)).apply(task)
    by_hand = task.model()
    for name in removed(variant):
        parent, _, last = name.rpartition(".")
        by_hand.get_submodule(parent)[int(last)] = nn.Identity()
    assert (variant.params, variant.macs) == (count_params(by_hand), count_macs(by_hand, task.examples(2)))
    assert torch.equal(variant.predict(task.examples(5)), by_hand(task.examples(5)))


@pytest.mark.slow
def test_the_blocks_are_those_of_a_search_by_hand():
    """Greedy by KL for multiply-accumulates, every candidate scored again in every turn."""
    task = residual_task(lambda: Encoder(norm_first=True))
    variant = wb.Recipe(wb.PruneDepth(blocks=3, samples=8)).apply(task)
    model, gone, total = task.model(), [], 0.0
    for _ in range(3):
        scores = {}
        for place, layer in enumerate(model.layers):
            if isinstance(layer, nn.Identity):
                continue
            model.layers[place] = nn.Identity()
            scores[place] = divergence(task, model, 8)
            model.layers[place] = layer
        best = min(scores, key=lambda place: scores[place] - total)
        total = scores[best]
        model.layers[best] = nn.Identity()
        gone.append(f"layers.{best}")
    assert sorted(removed(variant)) == sorted(gone)
    order = variant.reports[0].notes[0].split("order: ")[1]
    assert order == ", ".join(gone) + "."


@pytest.mark.parametrize(("ratio", "count"), [(0.1, 1), (0.3, 1), (0.4, 2), (0.7, 3), (0.9, 4)])
def test_ratio_is_of_the_removable_blocks_and_at_least_one(ratio, count):
    variant = wb.Recipe(wb.PruneDepth(ratio=ratio)).apply(residual_task())
    assert len(removed(variant)) == count


def test_patterns_choose_the_blocks():
    task = residual_task()
    chosen = wb.Recipe(wb.PruneDepth(blocks=1, include=("two",))).apply(task)
    assert removed(chosen) == ["two.1"]
    left = wb.Recipe(wb.PruneDepth(blocks=3, exclude=("one.2.conv1",))).apply(task)
    assert removed(left) == ["one.0", "one.1", "two.1"]
    with pytest.raises(ConfigError, match=r"must be at most 3, .*\(one.0, one.1, one.2\), got 4"):
        wb.Recipe(wb.PruneDepth(blocks=4, exclude=("two.1",))).apply(task)
    with pytest.raises(ConfigError, match=r"PruneDepth.include: no module .* 'three'"):
        wb.Recipe(wb.PruneDepth(include=("three",))).apply(task)


def test_a_model_without_blocks_is_an_error_or_passes_untouched():
    task = residual_task(Plain)
    with pytest.raises(CoverageError, match=r"needs a residual block.*features\.0: .*Use Prune"):
        wb.Recipe(wb.PruneDepth()).apply(task)
    variant = wb.Recipe(wb.PruneDepth(allow_untouched=True)).apply(task)
    assert variant.reports[0].touched == 0
    assert {layer.name for layer in variant.reports[0].layers} == {"features.0", "features.3", "features.6", "head"}


@pytest.mark.parametrize(("dear", "block"), [("one", "one.0"), ("two", "two.1")])
def test_a_cost_decides_between_blocks_of_like_loss(dear, block):
    """A stage whose blocks cost 100 times those of the other; the losses are within a factor of two."""
    task = residual_task()

    def cost(variant: wb.Variant) -> float:
        stages = {name: sum(isinstance(m, Block) for m in getattr(variant.module, name)) for name in ("one", "two")}
        return 10.0 + sum(count * (1.0 if name == dear else 0.01) for name, count in stages.items())

    step = wb.PruneDepth(blocks=1, include=("one.0", "two.1"), measure_latency=True, engine="openvino", engine_batch=4)
    variant = wb.Recipe(step).apply(task, cost=cost)
    assert removed(variant) == [block]
    assert any("latency measured on openvino at batch 4" in note for note in variant.reports[0].notes)


@pytest.mark.slow
def test_batch_norm_keeps_its_statistics_while_losses_are_measured():
    task = residual_task()
    before, after = task.model().state_dict(), wb.Recipe(wb.PruneDepth(blocks=1)).apply(task).module.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.slow
def test_blocks_of_one_kind_are_measured_together():
    task, measured = residual_task(), []

    def cost(variant: wb.Variant) -> float:
        measured.append([name for name, layer in variant.module.named_modules() if isinstance(layer, nn.Identity)])
        return 10.0 - 2.0 * len(measured[-1])

    wb.Recipe(wb.PruneDepth(blocks=1)).apply(task, cost=cost)
    assert measured == []  # the option decides, so that a recipe's id names one variant
    wb.Recipe(wb.PruneDepth(blocks=1, measure_latency=True)).apply(task, cost=cost)
    assert measured == [[], ["one.0", "one.1", "one.2"], ["two.1"]]


def test_latency_without_a_way_to_measure_is_refused_first():
    with pytest.raises(ConfigError, match="cost"):
        wb.Recipe(wb.PruneDepth(measure_latency=True)).apply(residual_task())
    with pytest.raises(ConfigError, match="cost must return a number above 0, and returned 'much'"):
        wb.Recipe(wb.PruneDepth(measure_latency=True)).apply(residual_task(), cost=lambda _: "much")


def test_depth_in_rounds_with_training_between():
    task = residual_task()
    train = wb.Distill(epochs=1.0, batch_size=16)
    variant = wb.Recipe(wb.PruneDepth(blocks=1), train, wb.PruneDepth(blocks=1), train).apply(task)
    first, second = removed(variant, 0), removed(variant, 2)
    assert len(first) == len(second) == 1
    assert first != second
    assert all(isinstance(variant.module.get_submodule(name), nn.Identity) for name in first + second)


@pytest.mark.slow
def test_every_rescore_gives_as_many_blocks():
    for rescore in (1, 2, 5):
        variant = wb.Recipe(wb.PruneDepth(blocks=3, rescore=rescore)).apply(residual_task())
        assert len(removed(variant)) == 3


def test_the_task_keeps_its_model_and_ties_stay():
    task = residual_task(TiedTower)
    variant = wb.Recipe(wb.PruneDepth(blocks=1, include=("blocks.0",))).apply(task)
    assert removed(variant) == ["blocks.0"]
    assert isinstance(variant.module.blocks[0], nn.Identity)
    assert not isinstance(task.model().blocks[0], nn.Identity)
    assert torch.equal(variant.module.blocks[1].conv1.weight, task.model().blocks[0].conv1.weight)


def test_what_is_left_trains():
    variant = wb.Recipe(wb.PruneDepth(blocks=1), wb.Recover(epochs=1.0, batch_size=16)).apply(
        residual_task(DropPathTower)
    )
    before = residual_task(DropPathTower).model().state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in variant.module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch-eager", "torchscript", "onnxruntime", "openvino"])
@pytest.mark.parametrize("factory", [Residual, Encoder], ids=["cnn", "transformer"])
def test_engines_give_the_same_outputs(factory, backend):
    task = residual_task(factory)
    variant = wb.Recipe(wb.PruneDepth(blocks=2)).apply(task)
    with wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=4, threads=1) as engine:
        got = torch.as_tensor(engine.predict(task.examples(4)).result)
    torch.testing.assert_close(got, variant.predict(task.examples(4)), atol=1e-5, rtol=1e-4)


def test_quantize_follows():
    task = residual_task()
    variant = wb.Recipe(wb.PruneDepth(blocks=2), wb.Quantize()).apply(task)
    assert variant.quantized
    assert len(removed(variant)) == 2
    float_one = wb.Recipe(wb.PruneDepth(blocks=2)).apply(task).predict(task.examples(8))
    apart = (variant.predict(task.examples(8)) - float_one).abs().max()
    assert apart < 0.1 * float_one.abs().max()


def test_label_technique_and_json():
    recipe = wb.Recipe(wb.PruneDepth(blocks=3, include=("layer*",)), wb.Distill())
    assert recipe.label == "depth -3 + distill"
    assert wb.Recipe.from_json(recipe.to_json()) == recipe
    assert wb.Recipe(wb.PruneDepth()).technique == "depth"
    assert recipe.technique == "distill"
    assert wb.Recipe(wb.PruneDepth(), wb.Prune()).technique == "chain"
