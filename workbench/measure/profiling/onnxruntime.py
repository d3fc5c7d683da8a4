"""Node times by ONNX Runtime's profiler."""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.core.files import TemporaryFolder
from workbench.engine.backends.base import ModelSource, require_onnx
from workbench.engine.backends.onnx_files import onnx_files, too_large
from workbench.measure.accuracy.activation_taps import owner_of
from workbench.measure.profiling.nodes import WARM_CALLS, LayerNames, NodeTime, ProfiledCalls, cut_median
from workbench.measure.profiling.op_kinds import is_product
from workbench.timing.settling import run_calls

LAUNCHES = (
    "node times on a GPU are launch times, because ONNX Runtime's profiler does not see kernels; use nsys "
    "(workbench.measure.nsight_command)"
)
# their inner nodes have own events
_CONTAINERS = frozenset({"If", "Loop", "Scan"})
_SUFFIX = "_kernel_time"
_NAMES = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "int8": "int8",
    "uint8": "int8", "int4": "int4", "uint4": "int4", "int64": "int64", "int32": "int32", "bool": "bool",
}  # fmt: skip
_GRAPHS = {"QuantizeLinear": "float32 to int8", "DequantizeLinear": "int8 to float32"}


def observe(session: Any, source: ModelSource, arrays: Arrays, calls: int, owners: Mapping[str, str]) -> ProfiledCalls:
    """Run ``calls`` calls in a second session with the profiler, and return their nodes.

    ``owners`` maps digests of weights to layer names.
    """
    path, folder = require_onnx(source, "onnxruntime"), TemporaryFolder()
    # loading fuses and renames nodes; the optimized graph holds the original names
    written = None if too_large(onnx_files(str(path))) else folder.path / "rewritten.onnx"
    try:
        opened = session.profiling(folder.path / "profile", write=written)
        feed, names = dict(zip(source.io.input_names, arrays, strict=True)), list(source.io.output_names)
        ms = run_calls(lambda: opened.run(names, feed), WARM_CALLS + calls)
        file = Path(opened.end_profiling())
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot profile {source.label}: {first_line(error)}") from error
    events = json.loads(file.read_text(encoding="utf-8"))
    outputs, stored = _graph(written)
    layers = LayerNames(path, owners)
    nodes = tuple(_node(key, runs, layers, outputs, stored) for key, runs in by_node(events, calls).items())
    notes = (LAUNCHES,) if session.device != "cpu" else ()

    def write_trace(target: Path) -> None:
        _ = folder  # keep the file alive
        target.write_bytes(file.read_bytes())

    return ProfiledCalls(nodes, tuple(ms[-calls:]), write_trace, notes)


def by_node(events: list[dict[str, Any]], calls: int) -> dict[tuple[str, str], list[list[dict[str, Any]]]]:
    """Return the events of each node per call, for the last ``calls`` calls in the order of computation."""
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])[-calls:]
    starts = [run["ts"] for run in runs]
    nodes: dict[tuple[str, str], list[list[dict[str, Any]]]] = defaultdict(lambda: [[] for _ in runs])
    for event in sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"]):
        place = bisect.bisect_right(starts, event["ts"]) - 1
        op = event["args"].get("op_name", "")
        if place >= 0 and event["name"].endswith(_SUFFIX) and op not in _CONTAINERS:
            nodes[event["name"].removesuffix(_SUFFIX), op][place].append(event)
    return dict(nodes)


def _graph(path: Path | None) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return outputs and inputs of each node of the optimized graph, by name."""
    if path is None or not path.is_file():
        return {}, {}
    import onnx

    nodes = onnx.load(str(path)).graph.node
    return {node.name: list(node.output) for node in nodes}, {node.name: list(node.input) for node in nodes}


def _node(
    key: tuple[str, str],
    runs: list[list[dict[str, Any]]],
    names: LayerNames,
    outputs: Mapping[str, list[str]],
    inputs: Mapping[str, list[str]],
) -> NodeTime:
    node, op = key
    first = next(event for events in runs for event in events)["args"]
    given = inputs.get(node, ())
    called = [node.removeprefix("fused ").removesuffix("_nchwc"), *outputs.get(node, ())]
    layer = owner_of(given) or names.of(called, product=is_product(op))
    if layer is None and not names.has(called):  # a node that the runtime inserted belongs to the layer of its inputs
        layer = names.of(given)
    # a node in a loop runs several times in a call, and every time is truncated
    ms = cut_median([sum(e["dur"] for e in events) + (len(events) - 1) / 2 for events in runs if events]) / 1e3
    shapes = first.get("output_type_shape") or [{}]
    shape = next(iter(shapes[0].values()), None)
    provider, size = first.get("provider", ""), None if shape is None else tuple(shape)
    return NodeTime(node, op, layer, ms, _precision(op, first), provider, size)


def _precision(op: str, arguments: Mapping[str, Any]) -> str | None:
    if op in _GRAPHS:
        return _GRAPHS[op]
    given = arguments.get("input_type_shape") or [{}]
    kind = next(iter(given[0]), None)
    return None if kind is None else _NAMES.get(kind, kind)
