"""Operator times by torch.profiler, per module. Imports torch."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.profiler import ProfilerActivity, record_function

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.core.quiet import without_lines
from workbench.engine.backends.base import ModelSource
from workbench.export.capture import layer_of_node
from workbench.measure.profiling.nodes import WARM_CALLS, NodeTime, ProfiledCalls
from workbench.measure.profiling.op_kinds import is_rounding
from workbench.measure.profiling.work import layer_hooks
from workbench.timing.settling import run_calls

_REMARKS = "USDT:"
_CALL, _LAYER = "workbench call", "workbench layer: "
COMPILED = (
    "{backend} runs compiled code: torch.profiler sees only torch operators, without their layers, and the rest of a "
    "call is outside of the rows"
)
OPERATORS = "torch.profiler has overhead per operator: the sum of the rows may exceed the time of a plain call"


@dataclass(frozen=True)
class _Operator:
    """One executed operator with the layer by module hooks and its ms."""

    op: str
    layer: str
    ms: float


def observe(session: Any, source: ModelSource, arrays: Arrays, calls: int, owners: Mapping[str, str]) -> ProfiledCalls:
    """Run ``calls`` calls under torch.profiler and return the outermost operators of each layer.

    ``owners`` is unused, because hooks report the names of modules.
    """
    module, device = session.module, session.device
    inner = getattr(module, "module", module) if type(module).__name__ == "HalfPrecisionModule" else module
    compiled = session.title != "torch eager"
    facts: dict[str, tuple[str, tuple[int, ...]]] = {} if compiled else _outputs(session, inner, arrays)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.startswith("cuda") else [])]

    def call() -> None:
        with record_function(_CALL):
            session.run(arrays)

    try:
        with contextlib.nullcontext() if compiled else _recorded(inner):
            run_calls(lambda: session.run(arrays), WARM_CALLS)
            profiler = torch.profiler.profile(activities=activities)
            with without_lines(_REMARKS):
                profiler.start()
            try:
                ms = run_calls(call, calls)
            finally:
                with without_lines(_REMARKS):
                    profiler.stop()
    except Exception as error:
        raise EngineError(f"torch.profiler cannot follow {source.label}: {first_line(error)}") from error
    events: Any = profiler.events()  # type: ignore[no-untyped-call]
    roots = [event for event in events or [] if event.name == _CALL]
    runs = [list(operators(event, "" if compiled else None, device)) for event in roots]
    nodes = _nodes(runs, facts, session, _graph_layers(inner))
    notes = (COMPILED.format(backend=session.title),) if compiled else (OPERATORS,)

    def write_trace(target: Path) -> None:
        profiler.export_chrome_trace(str(target))

    return ProfiledCalls(tuple(nodes), tuple(ms), write_trace, notes)


@contextlib.contextmanager
def _recorded(module: nn.Module) -> Iterator[None]:
    """Put a profiler range around every module while it runs."""
    ranges: list[Any] = []

    def enter(name: str) -> None:
        ranges.append(record_function(_LAYER + name))
        ranges[-1].__enter__()

    def leave(_name: str, _out: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    with layer_hooks(module, enter, leave, whole=True):
        yield


def _outputs(session: Any, module: nn.Module, arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of the output of every module, by name."""
    outputs: dict[str, tuple[str, tuple[int, ...]]] = {}

    def leave(name: str, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            outputs[name] = str(out.dtype).removeprefix("torch."), tuple(out.shape)

    with layer_hooks(module, lambda _name: None, leave):
        session.run(arrays)
    return outputs


def operators(event: Any, layer: str | None, device: str) -> Iterator[_Operator]:
    """Yield the outermost operators within an event by start time.

    A ``layer`` of None is outside of the module: conversions between arrays and tensors are left out.
    """
    for child in sorted(event.cpu_children, key=lambda one: one.time_range.start):
        if child.name.startswith(_LAYER):
            yield from operators(child, child.name.removeprefix(_LAYER), device)
        elif "::" in child.name and layer is not None:
            us = child.device_time_total if device.startswith("cuda") else child.cpu_time_total
            yield _Operator(child.name, layer, us / 1e3)
        else:
            yield from operators(child, layer, device)


def _nodes(
    runs: list[list[_Operator]],
    facts: Mapping[str, tuple[str, tuple[int, ...]]],
    session: Any,
    graph: list[tuple[str, str]],
) -> Iterator[NodeTime]:
    """Yield a node for every operator of a call, named as by torch.export: relu, relu_1, relu_2."""
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    names: dict[tuple[str, str, int], str] = {}
    for run in runs:
        counted: Counter[tuple[str, str]] = Counter()
        named: Counter[str] = Counter()
        layers = _aligned(run, graph)
        for one, layer in zip(run, layers, strict=True):
            key = (one.op, layer, counted[one.op, layer])
            counted[one.op, layer] += 1
            short = one.op.rpartition("::")[2]
            names.setdefault(key, f"{short}_{named[short]}" if named[short] else short)
            named[short] += 1
            times[key].append(one.ms)
    for (op, layer, number), values in times.items():
        dtype, shape = facts.get(layer, (session.precision, None))
        main = number == 0 and shape is not None
        yield NodeTime(
            names[op, layer, number], op, layer or None, float(np.median(values)), dtype, session.placement,
            shape if main else None,
        )  # fmt: skip


def _aligned(run: list[_Operator], graph: list[tuple[str, str]]) -> list[str]:
    """Return the layer of every operator: that of the captured graph's node at the same index, else by hooks."""
    if graph and [one.op.rpartition("::")[2] for one in run] == [op for op, _ in graph]:
        return [layer for _, layer in graph]
    return [one.layer for one in run]


def _graph_layers(module: nn.Module) -> list[tuple[str, str]]:
    """Return the operators of a captured graph in order with their layers, empty for other modules.

    A quantizer without a layer belongs to that of its input, else to that of its user.
    """
    if not isinstance(module, fx.GraphModule):
        return []
    layers = {node: layer_of_node(node) for node in module.graph.nodes}
    for node in module.graph.nodes:
        if is_rounding(str(node.target)):
            layers[node] = layers[node] or next((layers[one] for one in node.all_input_nodes if layers[one]), "")
    for node in reversed(module.graph.nodes):
        if is_rounding(str(node.target)):
            layers[node] = layers[node] or next((layers[one] for one in node.users if layers[one]), "")
    return [
        (node.target._schema.name.rpartition("::")[2], layers[node])
        for node in module.graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    ]
