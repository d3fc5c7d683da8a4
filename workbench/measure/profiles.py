"""Where a call's time goes, layer by layer: one schema for torch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import ConfigError
from workbench.core.files import replacing
from workbench.core.given import given, require_count
from workbench.engine.backends import takes_onnx
from workbench.engine.config import config_of
from workbench.engine.names import MODULE_BACKENDS, is_backend, unknown_backend
from workbench.engine.placement import placement_of
from workbench.engine.selection import load
from workbench.engine.source import source_from_variant
from workbench.measure.conditions import Watch
from workbench.measure.nodes import NodeTime, Observed
from workbench.measure.profile_text import profile_text
from workbench.measure.taps import weight_owners
from workbench.measure.timing import run_for, warm_until_steady
from workbench.tasks.trees import Tree, leaves, to_numpy
from workbench.tasks.trees import batch_size as size_of

if TYPE_CHECKING:
    import pandas as pd

    from workbench.compress.variant import Variant
    from workbench.measure.work import LayerWork

_PROFILERS = {
    **dict.fromkeys(MODULE_BACKENDS, "profile_torch"),
    "onnxruntime": "profile_onnxruntime",
    "openvino": "profile_openvino",
}
_PLAIN_S, _FAST = 0.2, 0.1


@dataclass(frozen=True)
class LayerTime:
    """One node of what the runtime runs.

    Attributes
    ----------
    layer : str
        The module that it belongs to; the node's own name where it belongs to none.
    op : str
        The runtime's word for what it does: ``Conv``, ``aten::conv2d``, ``FullyConnected``.
    ms : float
        Milliseconds per call: the median over calls, or the mean where the runtime keeps no more (OpenVINO).
    share : float
        Of the sum of all rows, from 0 to 1.
    precision : str or None
        What it computes in, None where the runtime does not say.
    provider : str
        Where it runs: an execution provider or a device.
    shape : tuple of int or None
        Of its first output, where known.
    node : str
        The runtime's own name of it.
    """

    layer: str
    op: str
    ms: float
    share: float
    precision: str | None
    provider: str
    shape: tuple[int, ...] | None
    node: str


@dataclass(frozen=True)
class Profile:
    """The rows of one variant on one engine; see :func:`workbench.profile`.

    Attributes
    ----------
    rows : tuple of LayerTime
        In the order of computation.
    plain_ms : float
        Median of a call without the profiler, before and after the profiled ones.
    fast_ms : float
        What a tenth of those calls stay below: how long one takes that nothing disturbs.
    profiled_ms : float
        Median of a call with it.
    work : tuple of LayerWork
        What the layers compute and touch, counted on the torch module; empty where that cannot be counted.
    modules : frozenset of str
        The names of all layers of the module.
    fallbacks : tuple of str
        What runs elsewhere than asked.
    disturbed : tuple of str
        What else had the cores meanwhile; empty where the times are to be trusted.
    trace : Path or None
        The file for chrome://tracing or Perfetto.
    """

    task: str
    label: str
    backend: str
    device: str
    batch_size: int
    threads: int
    asked: str
    precision: str
    quantized: bool
    calls: int
    rows: tuple[LayerTime, ...]
    plain_ms: float
    fast_ms: float
    profiled_ms: float
    macs: int
    work: tuple[LayerWork, ...] = field(repr=False)
    modules: frozenset[str] = field(default=frozenset(), repr=False)
    fallbacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    disturbed: tuple[str, ...] = ()
    trace: Path | None = None

    @property
    def total_ms(self) -> float:
        """The sum of the rows."""
        return sum(row.ms for row in self.rows)

    @property
    def overhead_ms(self) -> float:
        """What the profiler itself adds to a call."""
        return self.profiled_ms - self.plain_ms

    @property
    def outside_ms(self) -> float:
        """At least so much of a call lies outside of all rows: Python, launching, copying, waiting for threads.

        Rows are lengthened by the profiler, so that it may be more; and it is taken from the fastest plain calls, since
        medians of single nodes do not see the moments in which something else has the cores, and that of calls does.
        """
        return max(0.0, self.fast_ms - self.total_ms)

    def by_layer(self) -> pd.DataFrame:
        """Return a row per layer, the longest first: layer, op (all of them), ms, share, precision, nodes."""
        return self._grouped("layer", "op")

    def by_op(self) -> pd.DataFrame:
        """Return a row per kind of operator, the longest first: op, ms, share, precision, nodes."""
        return self._grouped("op")

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame, in the order of computation."""
        import pandas as pd

        columns = list(LayerTime.__dataclass_fields__)
        return pd.DataFrame([[getattr(row, name) for name in columns] for row in self.rows], columns=columns)

    def _grouped(self, key: str, *joined: str) -> pd.DataFrame:
        groups = self.frame().groupby(key, sort=False)
        found = groups[["ms", "share"]].sum()
        for number, name in enumerate((*joined, "precision")):
            found.insert(0 if name in joined else 2 + number, name, groups[name].agg(_words))
        found["nodes"] = groups.size()
        return found.sort_values("ms", ascending=False, kind="stable").reset_index()

    def __str__(self) -> str:
        return profile_text(self)


def _words(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


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
    """Run a variant with its runtime's own profiler and return the time of every node, by layer.

    torch's backends run under torch.profiler, ONNX Runtime writes the times of its nodes, OpenVINO counts them. What
    runs is loaded with the settings that are timed elsewhere, once without and once with the profiler.

    Parameters
    ----------
    variant : Variant
        What to run.
    inputs : optional
        A batch in the structure the model takes; by default ``batch_size`` examples of the task.
    backend : str
        ``torch-eager``, ``onnxruntime``, ``openvino``, or another backend of torch, of whose compiled code the profiler
        sees little.
    precision : str
        As in :class:`InferenceConfig`.
    calls : int
        Calls to profile, behind a few that are dropped.
    trace : path, optional
        Also write a trace in Chrome's format (``.json``), which https://ui.perfetto.dev opens.
    **options
        Further options of :class:`InferenceConfig`, such as ``graph_optimization="none"``.

    Raises
    ------
    ConfigError, BackendUnavailable, ExportError, EngineError
        If an argument is wrong, or the variant cannot run there.

    Examples
    --------
    >>> found = wb.profile(variant, batch_size=8, backend="openvino", trace="trace.json")  # doctest: +SKIP
    >>> found.by_layer().head(3)  # doctest: +SKIP
    """
    target = _check(variant, inputs, batch_size, backend, calls, trace)
    batch = batch_size if inputs is None else size_of(inputs)
    config = config_of(
        {
            "backend": backend,
            "batch_size": batch,
            "threads": threads,
            "precision": precision,
            "verify": False,
            **options,
        }
    )
    source = source_from_variant(variant, onnx=takes_onnx(backend), batch=batch)
    if source.io.batch not in (None, batch):
        raise ConfigError(
            f"profile: {source.label} runs batches of {source.io.batch} only, got {batch}. Give batch_size="
            f"{source.io.batch}."
        )
    found = variant.task.examples(batch) if inputs is None else inputs
    arrays = [np.ascontiguousarray(leaf) for leaf in leaves(to_numpy(found))]
    session, watch = load(backend, source, config)[0], Watch()
    try:
        plain = _plain(session, arrays)
        observe = importlib.import_module(f"workbench.measure.{_PROFILERS[backend]}").observe
        observed: Observed = observe(session, source, arrays, calls, weight_owners(variant.module))
        plain += _plain(session, arrays)
        disturbed = watch.lap().reasons
        if target is not None:
            with replacing(target) as temporary:
                observed.write_trace(temporary)
        return Profile(
            task=variant.task.name,
            label=variant.recipe.label,
            backend=backend,
            device=session.device,
            batch_size=batch,
            threads=session.threads,
            asked=config.precision.compute,
            precision=getattr(session, "precision", "float32"),
            quantized=variant.quantized,
            calls=calls,
            rows=tuple(_rows(observed.nodes)),
            plain_ms=float(np.median(plain)),
            fast_ms=float(np.quantile(plain, _FAST)),
            profiled_ms=float(np.median(observed.ms)),
            macs=variant.macs,
            **_counted(variant),
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
        raise ConfigError(f"profile takes a Variant, got {given(variant)}. wb.Variant.original(task) makes one.")
    require_count("profile: batch_size", batch_size)
    require_count("profile: calls", calls)
    if inputs is not None and batch_size != 1:
        raise ConfigError(f"profile: inputs have a batch size of their own; leave out batch_size={batch_size}.")
    if backend == "auto":
        raise ConfigError(
            "profile: backend 'auto' would hide what is profiled: name the engine, such as 'onnxruntime'."
        )
    if not isinstance(backend, str) or not is_backend(backend):
        raise ConfigError(f"profile: {unknown_backend(backend)}")
    if backend not in _PROFILERS:
        raise ConfigError(f"profile: {backend!r} has no profiler that is read here; there are {', '.join(_PROFILERS)}.")
    if trace is None:
        return None
    if not isinstance(trace, str | Path) or Path(trace).suffix != ".json":
        raise ConfigError(f"profile: trace must be the name of a .json file, got {given(trace)}.")
    return Path(trace)


def _plain(session: Any, arrays: list[Any]) -> list[float]:
    """Return ms of calls without the profiler; median over two such blocks around the profiled calls."""

    def call() -> None:
        session.run(arrays)

    warm_until_steady(call)
    return run_for(call, _PLAIN_S)


def _rows(nodes: Iterable[NodeTime]) -> Iterable[LayerTime]:
    known = list(nodes)
    total = sum(node.ms for node in known) or 1.0
    for one in known:
        yield LayerTime(
            one.layer or one.node.removeprefix("node_"),
            one.op,
            one.ms,
            one.ms / total,
            one.precision,
            one.provider,
            one.shape,
            one.node,
        )


def _counted(variant: Variant) -> dict[str, Any]:
    from workbench.measure.work import layer_work, module_names

    return {"work": layer_work(variant), "modules": module_names(variant.module)}
