"""Large matrix products in every installed library, for the peak throughput of each."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], object]


@dataclass(frozen=True)
class Product:
    """A product of two square matrices; ``opened`` yields the call in a context that frees its memory."""

    precision: str
    library: str
    flop: int
    opened: Callable[[], AbstractContextManager[Call]]


def products_of(precision: str, side: int, threads: int, device: str) -> list[Product]:
    """Return a product of ``side`` x ``side`` matrices for each library that supports the precision."""
    opened: list[tuple[str, Callable[[], AbstractContextManager[Call]]]] = []
    if precision != "int8":
        opened.append(("torch", lambda: _torch(precision, side, threads, device)))
    if device == "cpu" and precision in ("float32", "int8") and _installed("onnx", "onnxruntime"):
        opened.append(("onnxruntime", lambda: _onnxruntime(precision, side, threads)))
    if device == "cpu" and _installed("openvino"):
        opened.append(("openvino", lambda: _openvino(precision, side, threads)))
    return [Product(precision, library, 2 * side**3, context) for library, context in opened]


def _installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


@contextlib.contextmanager
def _torch(precision: str, side: int, threads: int, device: str) -> Iterator[Call]:
    import torch

    from workbench.engine.process.threads import ThreadClaim

    claim = ThreadClaim(threads)
    try:
        kind = getattr(torch, precision)
        a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
        out = torch.empty_like(a)

        def call() -> None:
            torch.mm(a, b, out=out)
            if device == "cuda":
                torch.cuda.synchronize()

        with torch.inference_mode():
            yield call
    finally:
        claim.release()


@contextlib.contextmanager
def _onnxruntime(precision: str, side: int, threads: int) -> Iterator[Call]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    whole = precision == "int8"
    kinds = (TensorProto.UINT8, TensorProto.INT32) if whole else (TensorProto.FLOAT, TensorProto.FLOAT)
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (side, side)).astype(np.int8) if whole else rng.random((side, side), np.float32)
    node = helper.make_node("MatMulInteger" if whole else "MatMul", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(n, k, [side, side]) for n, k in zip("xy", kinds, strict=True)]
    graph = helper.make_graph([node], "product", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = rng.integers(0, 256, (side, side)).astype(np.uint8) if whole else rng.random((side, side), np.float32)
    yield lambda: session.run(None, {"x": x})


@contextlib.contextmanager
def _openvino(precision: str, side: int, threads: int) -> Iterator[Call]:
    from workbench.engine.backends.openvino.runtime import import_openvino, shared_core
    from workbench.engine.precision import HINTS

    openvino = import_openvino()
    core = shared_core()
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": HINTS.get(precision, "f32"),
    }
    compiled = core.compile_model(_openvino_model(openvino, precision, side), "CPU", settings)
    request = compiled.create_infer_request()
    x = np.random.default_rng(0).random((side, side), np.float32)
    request.set_input_tensor(0, openvino.Tensor(x, shared_memory=True))
    yield lambda: request.infer(share_outputs=True)


def _openvino_model(openvino: Any, precision: str, side: int) -> Any:
    """Return a product; for int8 both operands are quantized, and OpenVINO computes in integers."""
    ops = importlib.import_module("openvino.opset13")
    rng = np.random.default_rng(1)
    x = ops.parameter([side, side], openvino.Type.f32)
    if precision != "int8":
        product = ops.matmul(x, ops.constant(rng.random((side, side), np.float32)), False, False)
        return openvino.Model([product], [x], "product")
    weight = ops.constant(rng.integers(-127, 128, (side, side)).astype(np.int8))
    scaled = ops.multiply(ops.convert(weight, openvino.Type.f32), ops.constant(np.float32(0.01)))
    ends = [ops.constant(np.float32(value)) for value in (0.0, 1.0)]
    rounded = ops.fake_quantize(x, *ends, *ends, 256)
    return openvino.Model([ops.matmul(rounded, scaled, False, False)], [x], "product")
