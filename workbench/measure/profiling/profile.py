"""Profile a variant layer by layer, in one schema for torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.checks import given, require_int
from workbench.core.errors import ConfigError
from workbench.core.files import atomic_write
from workbench.engine.backends import takes_onnx
from workbench.engine.backends.base import placement_of, runs_on_gpu
from workbench.engine.config import config_of
from workbench.engine.loading.load import load
from workbench.engine.loading.source import source_from_variant
from workbench.engine.names import MODULE_BACKENDS, is_backend, unknown_backend
from workbench.measure.accuracy.activation_taps import weight_owners
from workbench.measure.profiling.nodes import NodeTime, ProfiledCalls
from workbench.measure.profiling.rows import LayerTime, Profile
from workbench.tasks.trees import Tree, batch_size as size_of, leaves, to_numpy
from workbench.timing.conditions import LoadMonitor
from workbench.timing.settling import run_for, warm_until_steady

if TYPE_CHECKING:
    from workbench.compress.variant import Variant

_BACKENDS = (*MODULE_BACKENDS, "onnxruntime", "openvino")
_PLAIN_S, _FAST = 0.2, 0.1


def profile(
    variant: Variant,
    inputs: Tree | None = None,
    *,
    batch_size: int = 1,
    backend: str = "onnxruntime",
    threads: int | None = None,
    precision: str = "float32",
    calls: int = 50,
    trace: str | Path | None = None,
    **options: Any,
) -> Profile:
    """Profile a variant with its runtime's own profiler and return the time of every node with its layer.

    torch.profiler for torch's backends, the session profiler of ONNX Runtime, the performance counters of OpenVINO. The
    variant is loaded with the same settings as for timing, once without and once with the profiler.

    Parameters
    ----------
    inputs : optional
        A batch in the structure of the model's inputs; by default ``batch_size`` examples of the task.
    backend : str
        ``torch-eager``, ``onnxruntime``, ``openvino``, or another backend of torch, with few details for compiled code.
    precision : str
        As in :class:`InferenceConfig`.
    calls : int
        Profiled calls, after warm-up.
    trace : path, optional
        Write a trace in Chrome's format (``.json``) for https://ui.perfetto.dev.
    **options
        Further options of :class:`InferenceConfig`, such as ``graph_optimization="none"``.

    Raises
    ------
    ConfigError, BackendUnavailable, ExportError, EngineError
        If an argument is not valid, or the variant cannot run on the backend.

    Examples
    --------
    >>> found = wb.profile(variant, batch_size=8, backend="openvino", trace="trace.json")  # doctest: +SKIP
    >>> found.by_layer().head(3)  # doctest: +SKIP
    """
    from workbench.measure.profiling.work import layer_work, module_names

    target = _check(variant, inputs, batch_size, backend, calls, trace)
    batch = batch_size if inputs is None else size_of(inputs)
    base = {"backend": backend, "batch_size": batch, "threads": threads, "precision": precision, "verify": False}
    config = config_of({**base, **options})
    source = source_from_variant(variant, onnx=takes_onnx(backend), batch=batch)
    if source.io.batch not in (None, batch):
        raise ConfigError(f"profile: batch_size must be {source.io.batch} for {source.label}, got {batch}.")
    examples = variant.task.examples(batch) if inputs is None else inputs
    arrays = [np.ascontiguousarray(leaf) for leaf in leaves(to_numpy(examples))]
    session = load(backend, source, config)[0]
    watch = LoadMonitor(gpu=runs_on_gpu(session.placement))
    try:
        plain = _plain(session, arrays)
        observed = _observer(backend)(session, source, arrays, calls, weight_owners(variant.module))
        plain += _plain(session, arrays)
        disturbed = watch.lap().reasons
        if target is not None:
            with atomic_write(target) as temporary:
                observed.write_trace(temporary)
        return Profile(
            task=variant.task.name,
            label=variant.recipe.label,
            backend=backend,
            device=session.device,
            batch_size=batch,
            threads=session.threads,
            requested=config.precision.compute,
            precision=getattr(session, "precision", "float32"),
            quantized=variant.quantized,
            calls=calls,
            rows=_rows(observed.nodes),
            plain_ms=float(np.median(plain)),
            fast_ms=float(np.quantile(plain, _FAST)),
            profiled_ms=float(np.median(observed.ms)),
            macs=variant.macs,
            work=layer_work(variant),
            modules=module_names(variant.module),
            fallbacks=placement_of(session).fallbacks,
            notes=(*session.notes, *observed.notes),
            disturbed=disturbed,
            trace=target,
        )
    finally:
        session.close()


def _check(variant: Any, inputs: Any, batch_size: Any, backend: Any, calls: Any, trace: Any) -> Path | None:
    from workbench.compress.variant import Variant

    if not isinstance(variant, Variant):
        raise ConfigError(f"profile: variant must be a Variant, got {given(variant)}. Write wb.Variant.original(task).")
    require_int("profile: batch_size", batch_size)
    require_int("profile: calls", calls)
    if inputs is not None and batch_size != 1:
        raise ConfigError(f"profile: inputs set the batch size; leave out batch_size={batch_size}.")
    if backend == "auto":
        raise ConfigError("profile: backend must name one engine, such as 'onnxruntime', got 'auto'.")
    if not isinstance(backend, str) or not is_backend(backend):
        raise ConfigError(f"profile: {unknown_backend(backend)}")
    if backend not in _BACKENDS:
        raise ConfigError(f"profile: backend must be one of {', '.join(_BACKENDS)}, got {backend!r}.")
    if trace is None:
        return None
    if not isinstance(trace, str | Path) or Path(trace).suffix != ".json":
        raise ConfigError(f"profile: trace must be a .json file name, got {given(trace)}.")
    return Path(trace)


def _observer(backend: str) -> Callable[..., ProfiledCalls]:
    """Import the profiler of a backend together with its runtime."""
    if backend == "onnxruntime":
        from workbench.measure.profiling.onnxruntime import observe
    elif backend == "openvino":
        from workbench.measure.profiling.openvino import observe
    else:
        from workbench.measure.profiling.torch import observe
    return observe


def _plain(session: Any, arrays: list[Any]) -> list[float]:
    """Return the ms of calls without the profiler."""
    warm_until_steady(lambda: session.run(arrays))
    return run_for(lambda: session.run(arrays), _PLAIN_S)


def _rows(nodes: Sequence[NodeTime]) -> tuple[LayerTime, ...]:
    total = sum(node.ms for node in nodes) or 1.0
    layers = (node.layer or node.node.removeprefix("node_") for node in nodes)
    return tuple(
        LayerTime(layer, one.op, one.ms, one.ms / total, one.precision, one.provider, one.shape, one.node)
        for layer, one in zip(layers, nodes, strict=True)
    )
