"""Answers are right at every batch size, for every caller, and for files that nobody here made; or they are refused."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import workbench as wb
from workbench.core.errors import EngineError, InputError
from workbench.engine.backends import backend_status
from workbench.engine.calls.batching import RuntimeCall

SIZES = (1, 2, 3, 8, 20)
RUNTIMES = [s.name for s in backend_status(("onnxruntime", "openvino")) if s.available]


def task_of(build, x, y=None, *, loss=F.cross_entropy, metric=None):
    y = torch.arange(len(x)) % 3 if y is None else y
    return wb.Task(
        name="odd",
        build=build,
        train=(x, y),
        evaluation=(x[-40:] + 0.01, y[-40:]),
        metric=metric or (lambda out, y: float((out.argmax(1) == y).float().mean())),
        loss=loss,
    )


def seeded(make):
    def build():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make().eval()

    return build


def noise(*shape, low=None):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    return x if low is None else x.sigmoid()


class Modulated(nn.Module):
    """Scales every channel of every sample by a number of its own, with the batch folded into the channels."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 8))

    def forward(self, x):
        h = self.c1(x)
        n, c, a, b = h.shape
        h = (h.reshape(1, n * c, a, b) * self.scale.repeat(n).reshape(1, n * c, 1, 1)).reshape(n, c, a, b)
        return self.out(self.c2(h.relu()).relu().mean((2, 3)))


class Expanded(nn.Module):
    """Multiplies by a matrix that is expanded to the batch."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(12, 16), nn.Linear(16, 3)
        self.register_buffer("c", torch.randn(16, 16, generator=torch.Generator().manual_seed(1)) / 4)

    def forward(self, x):
        h = self.a(x).relu()
        h = h.bmm(self.c.expand(len(h), 16, 16))
        return self.out(h.bmm(h.transpose(1, 2)).bmm(h).mean(1))


class DeadFilters(nn.Module):
    """Some filters are zero, and their batch norms add a constant."""

    def __init__(self, dead=(0, 5, 17)):
        super().__init__()
        self.c1, self.n, self.c2 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 3)
        self.out = nn.Linear(8, 3)
        with torch.no_grad():
            for channel in dead:
                self.c1.weight[channel] *= 0.0 if channel else 1e-9
                self.n.bias[channel] = 1.0

    def forward(self, x):
        return self.out(self.c2(self.n(self.c1(x)).relu()).relu().mean((2, 3)))


class Maximum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.a(x).relu().amax(1))


class Twins(nn.Module):
    """Two layers whose weights round to the same integers, on scales of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = nn.Parameter(1.3 * self.a.weight.detach())
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.b(self.a(x).relu()).relu())


CASES = {
    "modulated": (Modulated, noise(300, 3, 8, 8), wb.Quantize()),
    "expanded": (Expanded, noise(300, 6, 12), wb.Quantize()),
    "dead filters": (DeadFilters, noise(300, 3, 8, 8, low=0), wb.Quantize()),
    "a tiny filter": (lambda: DeadFilters(dead=(0,)), noise(300, 3, 8, 8, low=0), wb.Quantize()),
    "maximum": (Maximum, noise(300, 5, 16), wb.Quantize()),
    "twins, dynamic": (Twins, noise(300, 16), wb.Quantize(activations="dynamic")),
    "twins, 4 bits": (Twins, noise(300, 16), wb.Quantize(activations="none", bits=4)),
}


@pytest.fixture(scope="module", params=CASES)
def variant(request):
    make, x, step = CASES[request.param]
    return wb.Recipe(step).apply(task_of(seeded(make), x))


@pytest.mark.slow
@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_quantized_engine_gives_the_simulation_at_every_size(variant, backend, batch_size):
    x = variant.task.evaluation.inputs
    options = {"backend": backend, "batch_size": batch_size}
    if (variant.recipe.label, backend) == ("int8 dynamic", "openvino"):
        with pytest.raises(EngineError, match="no int8 kernels"):
            wb.OptimizedInferenceEngine.from_variant(variant, **options)
        return
    answered = []
    with wb.OptimizedInferenceEngine.from_variant(variant, **options) as engine:
        for size in (*SIZES, batch_size):
            want = variant.predict(x[:size]).numpy()
            try:
                got = engine.predict(x[:size].numpy()).result
            except EngineError:  # another size may be refused, never answered wrongly
                continue
            answered.append(size)
            spread = max(float(want.std()), 0.05)
            assert np.sqrt(np.mean((got - want) ** 2)) <= 0.1 * spread, size
    assert batch_size in answered


# a forward that writes into its inputs


class Inplace(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.out = how, nn.Linear(12, 3)

    def forward(self, x):
        if self.how == "relu":
            F.relu(x, inplace=True)
        elif self.how == "sub":
            x.sub_(x.mean(1, keepdim=True))
        else:
            x[:, 0] = 0
        return self.out(x)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["relu", "sub", "index"])
def test_a_forward_that_writes_into_its_input_changes_nobodys_data(how):
    task = task_of(seeded(lambda: Inplace(how)), noise(200, 12))
    before, fingerprint = task.evaluation.inputs.clone(), task.fingerprint
    task.check()
    model = task.model()
    assert len({task.evaluate(model) for _ in range(3)}) == 1
    raw = seeded(lambda: Inplace(how))()
    assert len({task.evaluate(raw) for _ in range(3)}) == 1
    assert torch.equal(task.evaluation.inputs, before)
    for recipe in (wb.Recipe(), wb.Recipe(wb.Quantize())):
        variant = recipe.apply(task)
        x = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)
        kept = x.copy()
        variant.predict(torch.from_numpy(x))
        assert np.array_equal(x, kept)
        for backend in ("torch-eager", *RUNTIMES):
            with wb.OptimizedInferenceEngine.from_variant(variant, backend=backend) as engine:
                first, second = (engine.predict(x).result.copy() for _ in range(2))
            assert np.array_equal(first, second) and np.array_equal(x, kept), backend
    assert wb.Task.__name__ and task_of(seeded(lambda: Inplace(how)), noise(200, 12)).fingerprint == fingerprint


def test_a_saved_variant_keeps_writing_into_copies(tmp_path):
    task = task_of(seeded(lambda: Inplace("relu")), noise(200, 12))
    variant = wb.Recipe(wb.Prune(ratio=0.01, allow_untouched=True)).apply(task)
    variant.save(tmp_path / "a")
    x = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)
    kept = x.copy()
    options = {"build": task.build, "backend": "torch-eager"}
    with wb.OptimizedInferenceEngine.from_artifact(tmp_path / "a", **options) as engine:
        engine.predict(x)
    assert np.array_equal(x, kept)


# one buffer, filled again and again


@pytest.fixture(scope="module")
def plain():
    return wb.Recipe().apply(task_of(seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3))), noise(200, 12)))


def frames(buffer, values):
    for value in values:
        buffer[...] = value
        yield buffer


@pytest.mark.parametrize("backend", ["torch-eager", *RUNTIMES])
def test_a_buffer_that_is_refilled_gives_each_frames_own_answer(plain, backend):
    values = noise(9, 1, 12).numpy()
    with wb.OptimizedInferenceEngine.from_variant(plain, backend=backend, batch_size=4) as engine:
        want = [engine.predict(value).result for value in values]
        got = [r.result for r in engine.stream(frames(np.empty((1, 12), np.float32), values), batch_size=4)]
        assert np.allclose(np.concatenate(got), np.concatenate(want), atol=1e-5)
        with engine.batcher(batch_size=4, max_wait_ms=200.0, pending=20) as batcher:
            waiting = [batcher.submit(frame) for frame in frames(np.empty((1, 12), np.float32), values)]
            got = [future.result().result for future in waiting]
        assert np.allclose(np.concatenate(got), np.concatenate(want), atol=1e-5)

        async def awaited():
            buffer = np.empty((1, 12), np.float32)
            tasks = []
            for value in values:
                buffer[...] = value
                tasks.append(asyncio.ensure_future(engine.apredict(buffer)))
                await asyncio.sleep(0)
            return [r.result for r in await asyncio.gather(*tasks)]

        assert np.allclose(np.concatenate(asyncio.run(awaited())), np.concatenate(want), atol=1e-5)


# files whose batch is elsewhere, or that treat it as a whole


def file_of(tmp_path, module, example, *, name="m.onnx", dynamic=True, outputs=("y",)):
    path = tmp_path / name
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        module.eval(), (example,), str(path), dynamo=True, verbose=False, output_names=list(outputs),
        dynamic_shapes=({0: batch},) if dynamic else None,
    )  # fmt: skip
    return path


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 7, batch_first=True)

    def forward(self, x):
        return self.gru(x)


@pytest.mark.slow
@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_output_with_its_batch_in_another_dimension_is_cut_and_joined_there(tmp_path, backend, batch_size):
    module = seeded(Gru)()
    path = file_of(tmp_path, module, noise(2, 4, 5), outputs=("y", "h"))
    x = noise(4, 4, 5)
    want_y, want_h = (part.detach().numpy() for part in module(x))
    config = wb.InferenceConfig(model_path=str(path), backend=backend, batch_size=batch_size)
    with wb.OptimizedInferenceEngine(config) as engine:
        whole = engine.predict(x.numpy()).result
        assert np.allclose(whole["h"], want_h, atol=1e-4) and whole["h"].shape == (1, 4, 7)
        for parts in ([x[i : i + 1].numpy() for i in range(4)], [x[:3].numpy(), x[3:].numpy()]):
            got = engine.predict_batch(parts)
            assert np.allclose(np.concatenate([r.result["y"] for r in got]), want_y, atol=1e-4)
            assert np.allclose(np.concatenate([r.result["h"] for r in got], axis=1), want_h, atol=1e-4)
        buffers = engine.output_buffers(4)
        assert buffers["h"].shape == (1, 4, 7)
        assert np.allclose(engine.predict(x.numpy(), out=buffers).result["h"], want_h, atol=1e-4)


class Centered(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class Summary(nn.Module):
    """Gives one value for the whole batch beside those of the samples."""

    def forward(self, x):
        return x * 2, x.sum(0)


class AfterFirst(nn.Module):
    """Leaves the first sample as it is, and changes all others by it."""

    def forward(self, x):
        return x + 0.1 * (x - x[:1])


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("make", [Centered, AfterFirst, Summary])
def test_samples_of_different_callers_are_not_joined_where_that_changes_them(tmp_path, backend, make):
    module = make()
    path = file_of(tmp_path, module, noise(2, 6), outputs=("y", "s") if make is Summary else ("y",))
    parts = [noise(n, 6).numpy() + n for n in (1, 2, 4)]
    want = [module(torch.from_numpy(part)) for part in parts]
    want = [w if isinstance(w, tuple) else (w,) for w in want]

    def leaves(result):
        return list(result.values()) if isinstance(result, dict) else [result]

    with wb.OptimizedInferenceEngine(wb.InferenceConfig(model_path=str(path), backend=backend, batch_size=3)) as engine:
        assert any("call of its own" in note for note in engine.notes)
        with engine.batcher(batch_size=8, max_wait_ms=100.0) as batcher:
            several = [future.result() for future in [batcher.submit(part) for part in parts]]
        for results in (engine.predict_batch(parts), list(engine.stream(parts)), several):
            for result, expected in zip(results, want, strict=True):
                for got, right in zip(leaves(result.result), expected, strict=True):
                    assert got.shape == tuple(right.shape) and np.allclose(got, right, atol=1e-5)


@pytest.mark.parametrize("make", [Centered, AfterFirst])
def test_a_file_of_one_batch_size_refuses_to_fill_up_what_is_mixed(tmp_path, make):
    path = file_of(tmp_path, make(), noise(3, 6), dynamic=False)
    opened = wb.OptimizedInferenceEngine(wb.InferenceConfig(model_path=str(path), backend=RUNTIMES[0]))
    with opened as engine, pytest.raises(InputError, match="takes exactly 3 samples, got 2"):
        engine.predict(noise(2, 6).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch-eager", "onnxruntime"])
@pytest.mark.parametrize("saved", [False, True])
def test_dynamic_ranges_are_never_those_of_another_callers_samples(tmp_path, backend, saved):
    make = seeded(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)))
    variant = wb.Recipe(wb.Quantize(activations="dynamic")).apply(task_of(make, noise(300, 16)))
    small, large = noise(1, 16).numpy(), 100 * noise(1, 16).numpy()
    if saved:
        variant.save(tmp_path / "saved")
        opened = wb.OptimizedInferenceEngine.from_variant(
            wb.load_variant(tmp_path / "saved", variant.task), backend=backend
        )
    else:
        opened = wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=4)
    with opened as engine:
        alone = engine.predict(small).result
        for results in (engine.predict_batch([small, large]), list(engine.stream([small, large]))):
            assert np.allclose(results[0].result, alone, rtol=1e-5)
        assert any("whole batch" in note for note in engine.notes)


@pytest.mark.skipif("openvino" not in RUNTIMES, reason="openvino is not installed: pip install openvino")
def test_integers_that_a_runtime_would_narrow_are_refused(tmp_path):
    class Doubled(nn.Module):
        def forward(self, ids):
            return ids + ids

    path = file_of(tmp_path, Doubled(), torch.arange(6).reshape(2, 3))
    config = wb.InferenceConfig(model_path=str(path), backend="openvino")
    examples = np.array([[7, 1, 2]])
    big = np.array([[5_000_000_123, 1, 2]])
    with pytest.raises(EngineError, match="other outputs"):  # the sum of large values does not fit into 32 bits
        wb.OptimizedInferenceEngine(config).initialize()
    with wb.OptimizedInferenceEngine(config, example_inputs=examples) as engine:
        assert engine.predict(examples).result.tolist() == [[14, 2, 4]]
        with pytest.raises(InputError, match="computes integers in 32 bits"):
            engine.predict(big)
    with wb.OptimizedInferenceEngine(config.replace(backend="onnxruntime")) as engine:
        assert engine.predict(big).result.tolist() == [[10_000_000_246, 2, 4]]


@pytest.mark.skipif("openvino" not in RUNTIMES, reason="openvino is not installed: pip install openvino")
def test_one_thread_of_openvino_does_not_swallow_errors(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[5, 5])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "a", "b"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "c", "d"])],
    )
    path = tmp_path / "pool.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    config = wb.InferenceConfig(model_path=str(path), backend="openvino", threads=1)
    with wb.OptimizedInferenceEngine(config) as engine:
        assert engine.predict(np.ones((2, 3, 6, 9), np.float32)).result.shape == (2, 3, 2, 5)
        with pytest.raises(EngineError):
            engine.predict(np.ones((1, 3, 2, 9), np.float32))
        assert engine.predict(np.ones((1, 3, 6, 9), np.float32)).result.shape == (1, 3, 2, 5)


def test_the_time_of_an_input_ends_with_the_last_call_that_carried_it(plain):
    with wb.OptimizedInferenceEngine.from_variant(plain, backend="onnxruntime", batch_size=2) as engine:
        bound = engine.session.bound(noise(2, 12).numpy())
        outputs, _ = engine.session.call(bound.arrays)
        runs = [RuntimeCall(bound.requested + 1.0, bound.requested + 3.0, 0.5)]  # a clock ahead: nothing else may count
        (result,) = engine.session.results([(outputs, runs)], [bound])
    assert result.metrics.queue_ms == pytest.approx(1000.0)
    assert result.metrics.compute_ms == pytest.approx(1500.0)
    assert result.metrics.copy_ms == pytest.approx(500.0)
    assert result.metrics.total_ms == pytest.approx(3000.0)


def test_an_engine_is_not_used_after_a_fork_and_not_pickled(tmp_path):
    path = file_of(tmp_path, nn.Linear(4, 2), noise(2, 4))
    code = f"""
import os, sys
import numpy as np
import workbench as wb
from workbench.core.errors import EngineError
engine = wb.OptimizedInferenceEngine(wb.InferenceConfig(model_path={str(path)!r}, backend="onnxruntime")).initialize()
x = np.zeros((1, 4), np.float32)
engine.predict(x)
child = os.fork()
if not child:
    try:
        engine.predict(x)
    except EngineError as error:
        os._exit(7 if "spawn" in str(error) else 1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 7, done.stderr
    config = wb.InferenceConfig(model_path=str(path), backend="onnxruntime")
    with wb.OptimizedInferenceEngine(config) as engine, pytest.raises(EngineError, match="cannot be pickled"):
        pickle.dumps(engine)
    assert pickle.loads(pickle.dumps(config)) == config


class Doubles(nn.Module):
    """Computes in float64 between inputs and outputs of float32."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(1, 3)

    def forward(self, x):
        m = x.double().square().sum(1, keepdim=True)
        return self.a((m - m.floor()).float())


@pytest.mark.parametrize("backend", ["torch-eager", *RUNTIMES])
@pytest.mark.parametrize("steps", [(), (wb.Quantize(),)])
def test_nan_is_refused_where_an_engine_would_hide_it(plain, backend, steps):
    task = plain.task
    x = task.examples(3).clone()
    x[2].view(-1)[1] = float("nan")
    with wb.OptimizedInferenceEngine.from_variant(wb.Recipe(*steps).apply(task), backend=backend) as engine:
        if steps or backend == "openvino":
            with pytest.raises(InputError, match="NaN in 1 of 3 samples, first in sample 2, which this engine"):
                engine.predict(x)
            x[2].view(-1)[1] = -float("inf")  # a mask may hold it
            engine.predict(x)
        else:
            assert not bool(torch.isfinite(engine.predict(x).result[2]).all())


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in RUNTIMES, reason="openvino is not installed: pip install openvino")
def test_openvino_says_that_it_computes_float64_in_float32():
    variant = wb.Variant.original(task_of(seeded(Doubles), 0.1 * noise(300, 6)))
    with wb.OptimizedInferenceEngine.from_variant(variant, backend="openvino") as engine:
        assert "OpenVINO computes float64 in float32" in engine.notes


def test_a_variant_takes_arrays_as_its_engines_do():
    variant = wb.Variant.original(task_of(seeded(lambda: nn.Linear(6, 3)), noise(300, 6)))
    x = noise(4, 6)
    assert torch.equal(variant.predict(x.numpy()), variant.predict(x))


class Words(nn.Module):
    """Looks its input up in two tables; the smaller one has 20 places."""

    def __init__(self):
        super().__init__()
        self.large, self.small, self.out = nn.Embedding(50, 8), nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.out((self.large(ids) + self.small(ids.flatten(1))).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("steps", [(), (wb.Quantize(activations="none"),)])
@pytest.mark.parametrize("source", ["variant", "saved", "file"])
def test_places_outside_of_a_table_are_refused(tmp_path, backend, steps, source):
    ids = torch.randint(0, 20, (300, 5), generator=torch.Generator().manual_seed(0))
    task = wb.Task(
        name="odd",
        build=seeded(Words),
        train=(ids, ids[:, 0] % 3),
        evaluation=(ids[-40:].flip(1), ids[-40:, 0] % 3),
        metric=lambda out, y: float((out.argmax(1) == y).float().mean()),
        loss=F.cross_entropy,
    )
    variant = wb.Recipe(*steps).apply(task)
    if source == "variant":
        opened = wb.OptimizedInferenceEngine.from_variant(variant, backend=backend)
    else:
        folder = variant.save(tmp_path / "saved").folder
        path = folder if source == "saved" else folder / "model.onnx"
        opened = wb.OptimizedInferenceEngine(wb.InferenceConfig(model_path=str(path), backend=backend))
    with opened as engine:
        assert np.allclose(engine.predict(ids[:4].numpy()).result, variant.predict(ids[:4]), atol=0.05)
        for wrong in (20, -1, 1000):
            with pytest.raises(InputError, match=f"must be in 0 to 19, got {wrong}"):
                engine.predict(np.full((2, 5), wrong))
