"""Quantization: the arithmetic by hand, coverage by layer, and graphs that both runtimes run in integers."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from compress_models import OptionA, TinyViT, images, seeded, task_of, two_heads_task
from torch import nn
from torch.nn import functional as F

from workbench.compress import Distill, Prune, Quantize, Recipe
from workbench.compress.graph.capture import capture
from workbench.core.errors import CoverageError, ExportError


def quantized(build, step=None, **options):
    x, y = images()
    return Recipe(step or Quantize(target="int8_dot")).apply(task_of(build, x, y, **options))


def export(variant, path):
    batch = {0: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        variant.module, (variant.task.examples(2),), path, dynamo=True, dynamic_shapes=(batch,), verbose=False
    )
    return path


def counts(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def linear_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def nodes(variant, word):
    return [n for n in variant.module.graph.nodes if word in str(n.target)]


class PreActivation(nn.Module):
    """The stem's output is normalized on one way and taken as it is on the other; one convolution serves twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.head = nn.Linear(8, 4)
        for norm in self.norms:
            nn.init.uniform_(norm.running_var, 0.05, 4.0)
            nn.init.uniform_(norm.running_mean, -1.0, 1.0)

    def forward(self, x):
        h = self.stem(x)
        h = h + self.norms[1](self.twice(F.silu(self.norms[0](h))))
        h = h + self.norms[2](self.twice(F.silu(h)))
        return self.head(h.mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [Quantize(target="int8_dot"), Quantize(target="int8_dot", qat_epochs=0.1), Quantize(activations="none")]
)
def test_a_norm_after_a_value_that_others_take_too_is_not_folded_into_it(step, tmp_path):
    build = seeded(PreActivation)
    variant = quantized(build, step)
    x = variant.task.examples(8)
    wanted = build().eval()(x).detach().numpy()
    got = variant.predict(x).numpy()
    assert np.abs(got - wanted).max() < 0.05 * np.ptp(wanted)
    assert not nodes(variant, "aten.batch_norm")
    session = onnxruntime.InferenceSession(export(variant, tmp_path / "m.onnx"))
    ran = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(ran, got, atol=0.03 * np.ptp(wanted))


def test_a_graph_that_computes_something_else_is_refused():
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(64, 4)

        def forward(self, x):
            return self.lin(x.flatten(1)) * torch.rand(())

    with pytest.raises(ExportError, match="must compute the module's outputs"):
        capture(Random(), torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize(("reduce_range", "levels"), [(False, 127), (True, 63)])
def test_a_linear_rounds_as_worked_out_by_hand(reduce_range, levels):
    build = seeded(linear_net)
    variant = quantized(build, Quantize(reduce_range=reduce_range))
    weight, bias = build()[1].weight.detach().double().numpy(), build()[1].bias.detach().double().numpy()
    scales = np.abs(weight).max(1, keepdims=True) / levels
    rounded = np.clip(np.rint(weight / scales), -levels, levels) * scales
    scale, zero = nodes(variant, "quantized_decomposed.quantize_per_tensor")[0].args[1:3]
    x = variant.task.examples(8)
    flat = x.flatten(1).double().numpy()
    inputs = (np.clip(np.rint(flat / scale) + zero, 0, 255) - zero) * scale
    np.testing.assert_allclose(variant.predict(x).numpy(), inputs @ rounded.T + bias, atol=2e-4)
    calibration = variant.task.calibration.inputs
    assert scale <= float(calibration.max() - calibration.min()) / 255 * 1.001


def test_weights_are_integers_with_a_scale_per_channel_or_per_layer():
    for per_channel, size in ((True, 4), (False, 1)):
        variant = quantized(seeded(linear_net), Quantize(per_channel=per_channel, target="int8_dot"))
        stored = [b for b in variant.module.state_dict().values() if b.dtype == torch.int8]
        assert [tuple(b.shape) for b in stored] == [(4, 64)]
        word = "dequantize_per_channel" if per_channel else "dequantize_per_tensor"
        assert len(nodes(variant, word)) >= 1
        assert int(stored[0].abs().amax(1).eq(127).sum()) >= size


def test_any_batch_size_fits_and_the_report_covers_every_layer(tiny_task):
    variant = Recipe(Quantize(target="int8_dot")).apply(tiny_task)
    for n in (1, 2, 5):
        assert variant.predict(tiny_task.examples(n)).shape == (n, 4)
    report = variant.reports[0]
    assert [layer.name for layer in report.layers] == ["stem", "inner1", "inner2", "down", "hidden", "head"]
    assert all(layer.touched for layer in report.layers)
    assert variant.quality == pytest.approx(tiny_task.evaluate(tiny_task.model(), split="validation"), abs=0.03)
    assert report.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "option_a"])
def test_residual_nets_run_in_integers_on_both_runtimes(name, tiny_task, tmp_path):
    if name == "tiny":
        variant, convolutions = Recipe(Quantize(target="int8_dot")).apply(tiny_task), 4
    else:
        variant, convolutions = quantized(seeded(OptionA)), 3
    path = export(variant, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ran = counts(tmp_path / "optimized.onnx")
    assert (ran["QLinearConv"], ran["Conv"], ran["QLinearAdd"]) == (convolutions, 0, 1)
    x = variant.task.examples(7)
    want = variant.predict(x).numpy()
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    compiled = openvino.Core().compile_model(path, "CPU")
    assert np.abs(compiled(x.numpy())[0] - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.slow
def test_a_transformer_keeps_its_answers_and_quantizes_only_products_with_weights(tmp_path):
    build = seeded(TinyViT)
    variant = quantized(build)
    x = variant.task.examples(16)
    whole = build()(x).detach()
    assert float((variant.predict(x) - whole).abs().max()) < 0.05 * float(whole.abs().max())
    assert sorted(layer.name for layer in variant.reports[0].layers if layer.touched) == [
        "embed",
        "fc1",
        "fc2",
        "head",
        "proj",
        "qkv",
    ]
    # one for each different input of a weighted layer: no addition, norm or softmax
    assert len(nodes(variant, "quantized_decomposed.quantize_per_tensor")) == 6
    assert counts(export(variant, tmp_path / "vit.onnx"))["Softmax"] == 1


def test_concatenation_pooling_and_padding_stay_in_integers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 1)
            self.c, self.up = nn.Conv2d(16, 8, 3), nn.ConvTranspose2d(8, 4, 2)
            self.head = nn.Linear(4, 4)

        def forward(self, x):
            x = torch.cat([F.relu(self.a(x)), self.b(x)], 1)
            x = self.c(F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 2))
            return self.head(self.up(F.silu(x)).mean((2, 3)))

    variant = quantized(seeded(Net))
    reasons = {layer.name: layer.reason for layer in variant.reports[0].layers}
    assert "no int8 kernel" in reasons["up"]
    assert reasons["c"] == "int8 weights and inputs"
    (cat,) = nodes(variant, "aten.cat")
    assert all("dequantize" in str(source.target) for source in cat.args[0])
    scales = {source.args[0].args[1] for source in cat.args[0]}
    assert len(scales) == 1
    (pool,) = nodes(variant, "max_pool2d")
    assert next(iter(pool.users)).args[1] in scales
    # the convolution before SiLU gives integers out too: ONNX Runtime fuses only then
    (conv,) = [n for n in nodes(variant, "conv2d") if any("silu" in str(u.target) for u in _behind(n))]
    assert "quantize" in str(next(iter(conv.users)).target)


def _behind(node):
    found, waiting = [], list(node.users)
    while waiting and len(found) < 4:
        found.append(waiting.pop(0))
        waiting += list(found[-1].users)
    return found


def test_excluded_layers_stay_in_float():
    variant = quantized(seeded(OptionA), Quantize(exclude=("stem", "head")))
    reasons = {layer.name: (layer.touched, layer.reason) for layer in variant.reports[0].layers}
    assert reasons["stem"] == (False, "excluded by name")
    assert reasons["conv1"][0]
    with pytest.raises(CoverageError, match="excluded by name"):
        quantized(seeded(linear_net), Quantize(exclude=("1",)))


def test_weights_alone_are_stored_in_integers_and_computed_in_float(tmp_path):
    build = seeded(OptionA)
    variant = quantized(build, Quantize(activations="none"))
    x = variant.task.examples(8)
    whole = build()(x).detach()
    assert float((variant.predict(x) - whole).abs().max()) < 0.03 * float(whole.abs().max())
    assert not nodes(variant, "quantized_decomposed.quantize_per_tensor")
    assert "not faster" in variant.reports[0].notes[0]
    found = counts(export(variant, tmp_path / "weights.onnx"))
    assert (found["DequantizeLinear"], found["QuantizeLinear"]) == (4, 0)


def test_cpus_without_a_dot_product_get_seven_bits_and_a_note(monkeypatch):
    variant = quantized(seeded(linear_net), Quantize(target="no_int8_dot"))
    assert max(int(b.abs().max()) for b in variant.module.state_dict().values() if b.dtype == torch.int8) == 63
    assert "no int8 dot product" in variant.reports[0].notes[0]
    forced = quantized(seeded(linear_net), Quantize(target="no_int8_dot", reduce_range=False))
    assert "may saturate" in forced.reports[0].notes[0]
    from workbench.core.machine import Machine

    monkeypatch.setattr(Machine, "int8_dot", property(lambda self: False))
    assert "7 bits" in quantized(seeded(linear_net), Quantize()).reports[0].notes[0]


def test_dicts_in_and_out_keep_their_structure():
    variant = Recipe(Quantize()).apply(two_heads_task())
    outputs = variant.predict(two_heads_task().examples(3))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {"logits": (3, 4), "maps": (3, 2, 4, 4)}


@pytest.mark.slow
def test_training_with_rounding_wins_back_what_rounding_cost():
    x, _ = images(512)

    def build():
        module = seeded(OptionA)()
        with torch.no_grad():  # channels of very different size, which one scale per layer cannot hold
            module.conv1.weight *= torch.logspace(-2.5, 0, 32)[:, None, None, None]
            module.norm1.weight.copy_(torch.logspace(2.5, 0, 32))
            module.norm1.running_var.fill_(1)
        return module

    base = build()
    targets = base(x).detach().argmax(1)
    task = task_of(build, x, targets, metric=lambda out, y: -float(F.cross_entropy(out, y)))
    coarse = Recipe(Quantize(per_channel=False)).apply(task)
    trained = Recipe(Quantize(per_channel=False, qat_epochs=4, batch_size=32)).apply(task)
    assert trained.quality >= coarse.quality
    report = trained.reports[0]
    assert report.epochs_done == pytest.approx(4, abs=0.1)


@pytest.mark.slow
def test_training_that_makes_it_worse_is_undone_and_said(tiny_task):
    step = Quantize(qat_epochs=0.5, learning_rate=30.0, distill=False)
    variant = Recipe(step).apply(tiny_task)
    assert "QAT lowered" in variant.reports[0].notes[-1]
    assert variant.quality > 0.8


def test_a_forward_that_cannot_be_captured_is_answered():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            x = x.flatten(1)
            return self.head(x * 2 if float(x.sum()) > 0 else x)

    with pytest.raises(ExportError, match=r"Branching cannot be captured.*leave Quantize out"):
        quantized(seeded(Branching))


@pytest.mark.slow
def test_the_whole_chain_stays_within_a_point_on_digits():
    from workbench.tasks.builtin import digits

    task = digits()
    recipe = Recipe(Prune(0.5), Distill(epochs=8), Quantize(qat_epochs=1))
    variant = recipe.apply(task)
    assert task.evaluate(variant.predict) >= task.evaluate(task.model()) - 0.01


def test_simulated_rounding_is_that_of_torch():
    from workbench.compress.quantize.observers import FakeRound

    x = torch.randn(1000, requires_grad=True)
    scale, zero = 0.013, 77
    mine = FakeRound.apply(x, scale, (0 - zero) * scale, (255 - zero) * scale)
    oracle = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
    assert torch.allclose(mine, oracle, atol=1e-6)
    (own,) = torch.autograd.grad(mine.square().sum(), x)
    (theirs,) = torch.autograd.grad(oracle.square().sum(), x)
    # within half a step beyond the ends torch rounds back into the range and lets the gradient through
    inside = (x > (1 - zero) * scale) & (x < (254 - zero) * scale)
    outside = (x < (-1 - zero) * scale) | (x > (256 - zero) * scale)
    assert torch.allclose(own[inside], theirs[inside], atol=1e-5)
    assert not own[outside].any()
    assert not theirs[outside].any()
