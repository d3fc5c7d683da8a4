"""Looking inside an engine, against torch's own values and ratios computed by hand."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import workbench as wb
from workbench.compress.recipe import Recipe
from workbench.compress.steps import Quantize
from workbench.compress.variant import Variant
from workbench.core.errors import ConfigError
from workbench.measure.accuracy.activation_taps import align, layer_points
from workbench.measure.accuracy.debug import debug_accuracy
from workbench.measure.accuracy.layer_sqnr import sqnr_db
from workbench.tasks.task import Task

ENGINES = ["onnxruntime", "openvino"]


class Net(nn.Module):
    """A residual block and two Linears on tokens, one without bias: convolution, addition, MatMul and Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.mix = nn.Linear(16, 16)
        self.plain = nn.Linear(8, 16, bias=False)
        self.head = nn.Linear(16, 4)

    def forward(self, image):
        x = self.stem(image).relu()
        x = (x + self.inner(x)).relu().flatten(2).transpose(1, 2)
        return self.head(self.mix(self.plain(x).relu()).mean(1))


def build():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Net().eval()


def make_task(**more):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(364, 1, 6, 6, generator=generator)
    with torch.no_grad():
        y = build()(x).argmax(1)
    options = {
        "metric": lambda out, y: float((out.argmax(1) == y).double().mean()),
        "loss": nn.functional.cross_entropy,
    } | more
    return Task(name="small", build=build, train=(x[64:], y[64:]), evaluation=(x[:64], y[:64]), **options)


def disturbed(task):
    """Return a variant whose weights are all a little off."""
    variant = Variant.original(task)
    module = copy.deepcopy(variant.module)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return dataclasses.replace(variant, module=module)


def behind(module, x):
    """Return the values behind every layer, its ReLU included where one follows alone."""
    found = {}
    for name, layer in module.named_children():
        layer.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
    with torch.no_grad():
        module(x)
    return {n: (v.relu() if n in ("stem", "plain") else v).double().numpy() for n, v in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_layers_are_compared_as_torch_and_numpy_do_by_hand(engine):
    task = make_task()
    variant = disturbed(task)
    report = debug_accuracy(task, variant, backend=engine, samples=20, batch_size=8, threads=1)
    x = task.validation.inputs[:20]
    before, after = behind(task.model(), x), behind(copy.deepcopy(variant.module), x)
    assert [layer.layer for layer in report.layers] == ["stem", "inner", "plain", "mix", "head"]
    assert report.unaligned == () and report.notes == ()
    for layer in report.layers:
        signal, noise = (before[layer.layer] ** 2).sum(), ((before[layer.layer] - after[layer.layer]) ** 2).sum()
        assert layer.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_integers_are_read_behind_their_rounding_on_the_engine(engine):
    task = make_task()
    variant = Recipe(Quantize()).apply(task)
    report = debug_accuracy(task, variant, backend=engine, threads=1, samples=30)
    ratios = {layer.layer: layer.sqnr_db for layer in report.layers}
    assert list(ratios) == ["stem", "inner", "plain", "mix", "head"]
    assert all(20 < ratio < 70 for ratio in ratios.values())
    # the last layer is the output: what the engine itself gives, without being looked into
    with wb.OptimizedInferenceEngine.from_variant(variant, backend=engine, threads=1, batch_size=30) as loaded:
        got = loaded.predict(task.validation.inputs[:30]).result.double().numpy()
    want = behind(task.model(), task.validation.inputs[:30])["head"]
    by_hand = 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum())
    assert ratios["head"] == pytest.approx(by_hand, abs=1.0)


def test_classes_and_metrics_are_counted_by_hand():
    task = make_task()
    variant = disturbed(task)
    with torch.no_grad():
        variant.module.head.bias[2] += 1.0
    metrics = {"top 2": lambda out, y: float((out.topk(2).indices == y[:, None]).any(1).double().mean())}
    report = debug_accuracy(task, variant, backend="torch-eager", metrics=metrics, split="train")
    assert "got torch-eager" in report.notes[0] and report.layers == ()
    x, y = task.train.inputs, task.train.targets.numpy()
    with torch.no_grad():
        first, second = task.model()(x), variant.module(x)
    a, b = first.argmax(1).numpy(), second.argmax(1).numpy()
    assert (b != y).sum() > 3
    frame = report.class_frame().set_index("label")
    for label in set(y.tolist()):
        here = y == label
        row = frame.loc[label]
        assert (row["samples"], row["before"], row["after"]) == (
            here.sum(),
            (a[here] == label).mean(),
            pytest.approx((b[here] == label).mean()),
        )
        assert row["drop"] == pytest.approx(row["before"] - row["after"])
        others = np.bincount(b[here], minlength=4) - np.bincount(a[here], minlength=4)
        others[label] = 0
        assert row["times_more"] == max(0, others.max())
    assert frame["drop"].is_monotonic_decreasing
    assert report.confusion[1].sum() == len(y) and report.confusion[1].trace() == (b == y).sum()
    scores = report.metric_frame().set_index("metric")
    assert scores.loc["the task's metric", "after"] == pytest.approx((b == y).mean())
    assert scores.loc["top 2", "before"] == 1.0
    assert scores.loc["top 2", "after"] == metrics["top 2"](second, task.train.targets)


def test_outputs_that_are_no_classes_have_no_confusion():
    task = make_task(metric=lambda out, y: -float(out.square().mean()))
    task = Task(
        name="regression",
        build=build,
        train=(task.train.inputs, torch.randn(len(task.train), 4)),
        evaluation=(task.evaluation.inputs, torch.randn(64, 4)),
        metric=lambda out, y: -float((out - y).square().mean()),
        loss=nn.functional.mse_loss,
    )
    report = debug_accuracy(task, Variant.original(task), backend="torch-eager")
    assert report.confusion is None and report.classes == ()
    assert any("no classes" in note for note in report.notes)
    assert report.class_frame().empty


def save(tmp_path, name, nodes, weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    path = tmp_path / name
    onnx.save(helper.make_model(graph), str(path))
    return path


def two_products(tmp_path, name, *, weights, rounded=False, relu=True):
    """Return a file of two products by stored weights, with a ReLU between; rounded: the second one's input."""
    nodes = [helper.make_node("MatMul", ["x", weights[0]], ["a"])]
    last = "a"
    if relu:
        nodes.append(helper.make_node("Relu", ["a"], ["b"]))
        last = "b"
    if rounded:
        nodes.append(helper.make_node("QuantizeLinear", [last, "s", "z"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
        last = "d"
    nodes.append(helper.make_node("MatMul", [last, weights[1]], ["y"]))
    stored = {key: np.eye(4, dtype=np.float32) for key in weights}
    return save(tmp_path, name, nodes, stored | {"s": np.float32(0.1), "z": np.uint8(0)})


def test_points_lie_behind_activation_and_rounding(tmp_path):
    plain = layer_points(two_products(tmp_path, "a.onnx", weights=("one.weight", "two.weight")))
    rounded = layer_points(two_products(tmp_path, "b.onnx", weights=("one.weight", "two.weight"), rounded=True))
    assert [point.name for point in plain] == ["one", "two"]
    pairs, lost = align(plain, rounded)
    assert [(p.reference, p.candidate) for p in pairs] == [("b", "d"), ("y", "y")] and not lost
    # without the activation in one of them, both are read before it
    pairs, _ = align(
        plain, layer_points(two_products(tmp_path, "c.onnx", weights=("one.weight", "two.weight"), relu=False))
    )
    assert (pairs[0].reference, pairs[0].candidate) == ("a", "a")


def test_names_that_are_lost_are_made_up_for_by_the_order(tmp_path):
    plain = layer_points(two_products(tmp_path, "a.onnx", weights=("one.weight", "two.weight")))
    unnamed = layer_points(two_products(tmp_path, "b.onnx", weights=("param0", "param1")))
    assert [point.name for point in unnamed] == [None, None]
    pairs, lost = align(plain, unnamed)
    assert [pair.name for pair in pairs] == ["one", "two"] and not lost
    pairs, lost = align(plain, unnamed[:1])
    assert not pairs and lost.keys() == {"one", "two"} and "lacks a layer" in lost["one"]
    swapped = layer_points(two_products(tmp_path, "c.onnx", weights=("two.weight", "one.weight")))
    pairs, _ = align(plain, swapped)
    assert [(p.name, p.candidate) for p in pairs] == [("one", "y"), ("two", "a")]


def test_ratios_at_the_ends():
    assert sqnr_db(1.0, 0.0) == math.inf
    assert sqnr_db(0.0, 1.0) == -math.inf
    assert sqnr_db(1.0, 0.001) == pytest.approx(30)


def test_what_cannot_work_is_refused_before_it_starts():
    task = make_task()
    variant = Variant.original(task)
    with pytest.raises(ConfigError, match="samples must be an integer of at least 1, got 0"):
        debug_accuracy(task, variant, samples=0)
    with pytest.raises(ConfigError, match="name the timed engine"):
        debug_accuracy(task, variant, backend="auto")
    other = make_task(version="2")
    with pytest.raises(ConfigError, match="must be of task 'small' with the same data and weights"):
        debug_accuracy(other, variant)
    with pytest.raises(ConfigError, match="metric 'bad' failed: ZeroDivisionError"):
        debug_accuracy(task, variant, backend="torch-eager", metrics={"bad": lambda out, y: 1 / 0})
