"""Node times by OpenVINO's performance counters (PERF_COUNT)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.engine.backends.base import ModelSource, require_onnx
from workbench.measure.profiling.nodes import WARM_CALLS, LayerNames, NodeTime, ProfiledCalls
from workbench.measure.profiling.op_kinds import is_product
from workbench.timing.settling import run_calls

LOADS = 5
AVERAGES = (
    "OpenVINO counts one average per node over all calls, in whole microseconds: ms is the median over {loads} loads "
    "of the mean without warm-up calls"
)
LAID_OUT = "OpenVINO counts durations without start times: the trace shows the nodes sequentially"
_KIND = re.compile(r"_(f32|f16|bf16|i8|u8|i4|u4|i32|u32|i64|f64|f8\w+|boolean)$", re.IGNORECASE)
_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i8": "int8", "u8": "int8", "i4": "int4",
          "u4": "int4", "i32": "int32", "i64": "int64", "f64": "float64", "boolean": "bool"}  # fmt: skip
_IDLE = frozenset({"Input", "Parameter", "Constant", "Const", "Output", "Result"})


def observe(session: Any, source: ModelSource, arrays: Arrays, calls: int, owners: Mapping[str, str]) -> ProfiledCalls:
    """Run ``calls`` calls in models compiled with counters, and return their nodes.

    The calls are spread over a few loads, because one slow call spoils an average, and sessions of one model differ.
    ``owners`` maps digests of weights to layer names.
    """
    path = require_onnx(source, "openvino")
    loads = min(LOADS, calls)
    each = -(-calls // loads)
    ms: list[float] = []
    us: dict[str, list[float]] = defaultdict(list)
    try:
        for _ in range(loads):
            compiled = session.counting(len(arrays[0]))
            infos, call_ms = _load(session, compiled, source, arrays, each)
            ms += call_ms
            for name, (_, mean) in infos.items():
                us[name].append(mean)
    except Exception as error:
        raise EngineError(f"OpenVINO cannot profile {source.label}: {first_line(error)}") from error
    origin, shapes = _graph(compiled)
    names = LayerNames(path, owners)
    nodes = tuple(
        _node(info, float(np.median(us[name])), names, origin, shapes, session.placement)
        for name, (info, _) in infos.items()
    )

    def write_trace(target: Path) -> None:
        target.write_text(json.dumps(_trace(nodes, session.threads)), encoding="utf-8")

    return ProfiledCalls(nodes, tuple(ms), write_trace, (AVERAGES.format(loads=loads),))


def _load(
    session: Any, compiled: Any, source: ModelSource, arrays: Arrays, calls: int
) -> tuple[dict[str, tuple[Any, float]], list[float]]:
    """Return the executed nodes of one load with their mean in microseconds, and the ms of every call."""
    request, outputs = compiled.create_infer_request(), range(len(source.io.outputs))

    def call() -> None:  # as the session's own calls
        held = session.set_inputs(request, arrays)
        request.infer(share_outputs=True)
        del held
        _ = [np.array(request.get_output_tensor(i).data) for i in outputs]

    run_calls(call, WARM_CALLS)
    before = {info.node_name: info for info in request.get_profiling_info()}
    ms = run_calls(call, calls)
    nodes = {}
    for info in request.get_profiling_info():
        first = before.get(info.node_name)
        # an average below one microsecond has the status of a node that was not executed
        ran = any(str(one.status).endswith("EXECUTED") for one in (info, first) if one is not None)
        if ran and info.node_type not in _IDLE:
            before_us = 0.0 if first is None else _us(first)
            nodes[info.node_name] = info, mean_behind(before_us, _us(info), WARM_CALLS, calls)
    return nodes, ms


def _us(info: Any) -> float:
    return float(info.real_time.total_seconds() * 1e6)


def mean_behind(before_us: float, after_us: float, warm: int, calls: int) -> float:
    """Return the mean in microseconds of the last ``calls`` calls, from averages over the warm-up and over all calls.

    Both averages are truncated, by half a microsecond on average.

    Examples
    --------
    >>> round(mean_behind(100, 20, warm=1, calls=9), 2)
    11.61
    """
    whole = (after_us + 0.5) * (warm + calls)
    return max(0.0, (whole - (before_us + 0.5) * warm) / calls)


def _node(
    info: Any,
    us: float,
    names: LayerNames,
    origin: Mapping[str, list[str]],
    shapes: Mapping[str, tuple[int, ...]],
    provider: str,
) -> NodeTime:
    kind = _KIND.search(info.exec_type)
    precision = None if kind is None else _NAMES.get(kind[1].lower(), kind[1].lower())
    made_of = [name.removesuffix("/WithoutBiases") for name in (*origin.get(info.node_name, ()), info.node_name)]
    layer = names.of(made_of, product=is_product(info.node_type))
    return NodeTime(info.node_name, info.node_type, layer, us / 1e3, precision, provider, shapes.get(info.node_name))


def _graph(compiled: Any) -> tuple[dict[str, list[str]], dict[str, tuple[int, ...]]]:
    """Return the original nodes of each node of the compiled graph, and its output shape."""
    origin, shapes = {}, {}
    for op in compiled.get_runtime_model().get_ops():
        name, info = op.get_friendly_name(), op.get_rt_info()
        if "originalLayersNames" in info:
            text = info["originalLayersNames"]
            origin[name] = [part for part in str(getattr(text, "value", text)).split(",") if part]
        if op.get_output_size() and op.get_output_partial_shape(0).is_static:
            shapes[name] = tuple(op.get_output_shape(0))
    return origin, shapes


def _trace(nodes: tuple[NodeTime, ...], threads: int) -> dict[str, Any]:
    """Return a Chrome trace of one call."""
    events, at = [], 0.0
    for node in nodes:
        arguments = {"op": node.op, "layer": node.layer, "precision": node.precision}
        us = node.ms * 1e3
        events.append(
            {"name": node.node, "cat": node.op, "ph": "X", "ts": at, "dur": us, "pid": 1, "tid": 1, "args": arguments}
        )
        at += us
    return {"traceEvents": events, "otherData": {"note": LAID_OUT, "threads": threads}}
