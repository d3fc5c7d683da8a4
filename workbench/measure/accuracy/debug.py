"""Locate the accuracy loss of a variant: per layer on the timed engine, per class, and in several metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.checks import given, require_callable, require_int
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress, ProgressCallback, ignore_progress
from workbench.engine.config import InferenceConfig, config_of
from workbench.engine.engine import OptimizedInferenceEngine
from workbench.measure.accuracy.layer_sqnr import LayerSignal, layer_signals
from workbench.tasks.trees import Tree

if TYPE_CHECKING:
    import pandas as pd

    from workbench.compress.variant import Variant
    from workbench.tasks.split import Split
    from workbench.tasks.task import Task

Metric = Callable[[Any, Any], float]
_BATCH = 32


@dataclass(frozen=True)
class ClassDrop:
    """One class: its recall before and after, and the class of most new errors."""

    label: int
    samples: int
    before: float
    after: float
    mistaken_for: int | None
    times_more: int


@dataclass(frozen=True)
class MetricDrop:
    """One metric before and after."""

    metric: str
    before: float
    after: float


@dataclass(frozen=True)
class AccuracyReport:
    """Two variants on one engine; see :func:`workbench.debug_accuracy`.

    ``unaligned`` holds layers that could not be compared, with reasons; ``confusion`` holds the confusion matrices
    ``[true, predicted]`` of both, None if the outputs are not classes.
    """

    task: str
    backend: str
    split: str
    reference: str
    candidate: str
    layers: tuple[LayerSignal, ...]
    unaligned: tuple[tuple[str, str], ...]
    classes: tuple[ClassDrop, ...]
    metrics: tuple[MetricDrop, ...]
    confusion: tuple[Any, Any] | None
    notes: tuple[str, ...]

    def layer_frame(self) -> pd.DataFrame:
        """Return a row per layer in the order of computation: layer, op, sqnr_db."""
        return _frame(self.layers, LayerSignal)

    def class_frame(self) -> pd.DataFrame:
        """Return a row per class, the largest drop first; ``mistaken_for`` is empty without new errors."""
        frame = _frame(self.classes, ClassDrop)
        frame["mistaken_for"] = frame["mistaken_for"].astype("Int64")
        frame.insert(4, "drop", frame["before"] - frame["after"])
        return frame.sort_values("drop", ascending=False, kind="stable", ignore_index=True)

    def metric_frame(self) -> pd.DataFrame:
        """Return a row per metric: before, after, drop."""
        frame = _frame(self.metrics, MetricDrop)
        return frame.assign(drop=frame["before"] - frame["after"])


def debug_accuracy(
    task: Task | str,
    variant: Variant,
    *,
    reference: Variant | None = None,
    backend: str = "onnxruntime",
    split: str = "validation",
    samples: int = 64,
    metrics: Mapping[str, Metric] | None = None,
    batch_size: int = _BATCH,
    threads: int | None = None,
    progress: ProgressCallback = ignore_progress,
) -> AccuracyReport:
    """Compare a variant with its reference on one engine per layer, class and metric.

    Parameters
    ----------
    task : Task or str
        The task, or an argument of :func:`workbench.load_task`.
    reference : Variant, optional
        By default the task's own model. To isolate quantization in a recipe, use the variant without ``Quantize``.
    backend : str
        The timed engine. Both files run with the timed settings; layer outputs are read from copies of the files with
        additional outputs (not available for torch's backends).
    split : str
        Split of classes and metrics. Layers are compared on its first ``samples`` samples.
    metrics : mapping of name to metric(outputs, targets), optional
        Metrics in addition to the task's own, each over the whole split as CPU tensors.
    progress : callable
        It may raise :class:`Cancelled` to stop.

    Raises
    ------
    ConfigError
        If an argument is not valid, or the variants are of another task.
    ExportError, EngineError, BackendUnavailable
        If one of the two cannot run on the backend.

    Examples
    --------
    >>> report = wb.debug_accuracy(task, variant, backend="openvino")  # doctest: +SKIP
    >>> report.layer_frame().nsmallest(3, "sqnr_db")  # doctest: +SKIP
    """
    from workbench.compress.variant import Variant
    from workbench.tasks.load import load_task

    _check_arguments(variant, reference, samples, metrics, progress)
    if backend == "auto":
        raise ConfigError("debug_accuracy: backend must name the timed engine, got 'auto'.")
    config = config_of({"backend": backend, "batch_size": batch_size, "threads": threads, "verify": False})
    task = load_task(task)
    data = task.split(split)
    before = reference if reference is not None else Variant.original(task)
    for one in (before, variant):
        if one.task.fingerprint != task.fingerprint:
            raise ConfigError(
                f"debug_accuracy: variants must be of task {task.name!r} with the same data and weights, got "
                f"{one.recipe.label!r} of {one.task.name!r}. Apply the recipe to this task."
            )
    progress(Progress("debug", 0, 3, f"the reference on {backend}"))
    first = _outputs(task, before, data, config)
    progress(Progress("debug", 1, 3, f"the variant on {backend}"))
    second = _outputs(task, variant, data, config)
    progress(Progress("debug", 2, 3, "comparing layer outputs"))
    signals = layer_signals((before, variant), data.take(range(min(samples, len(data)))), config, (first, second))
    notes = signals.notes
    confusion = _confusion(first, second, data.targets)
    if confusion is None:
        notes = (*notes, "no classes: requires one output tensor [n, classes] and integer targets [n]")
    all_metrics = {"the task's metric": task.metric} | dict(metrics or {})
    progress(Progress("debug", 3, 3))
    return AccuracyReport(
        task=task.name,
        backend=backend,
        split=split,
        reference=before.recipe.label,
        candidate=variant.recipe.label,
        layers=signals.layers,
        unaligned=signals.unaligned,
        classes=() if confusion is None else _class_drops(*confusion),
        metrics=tuple(_metric_drop(name, metric, first, second, data.targets) for name, metric in all_metrics.items()),
        confusion=confusion,
        notes=notes,
    )


def _check_arguments(variant: object, reference: object, samples: object, metrics: object, progress: object) -> None:
    from workbench.compress.variant import Variant

    for word, one in (("variant", variant), ("reference", reference)):
        if not isinstance(one, Variant) and (word, one) != ("reference", None):
            raise ConfigError(
                f"debug_accuracy: {word} must be a Variant, got {given(one)}. Use recipe.apply(task) or "
                "wb.load_variant(folder, task)."
            )
    require_int("debug_accuracy: samples", samples)
    if metrics is not None and not isinstance(metrics, Mapping):
        example = "{'top 5': my_metric}"
        raise ConfigError(f"debug_accuracy: metrics must be a dict such as {example}, got {given(metrics)}.")
    for name, metric in (metrics or {}).items():
        require_callable(f"debug_accuracy: the metric {name!r}", metric, takes="(outputs, targets) of a whole split")
    require_callable("debug_accuracy: progress", progress, takes="each Progress report")


def _outputs(task: Task, variant: Variant, data: Split, config: InferenceConfig) -> Tree:
    options = {"backend": config.backend, "batch_size": config.batch_size, "threads": config.threads, "verify": False}
    with OptimizedInferenceEngine.from_variant(variant, **options) as engine:
        return task.outputs(lambda inputs: engine.predict(inputs).result, data, config.batch_size)


def _confusion(first: Tree, second: Tree, targets: Any) -> tuple[Any, Any] | None:
    """Return the confusion matrices ``[true, predicted]`` of both, or None if there are no classes."""
    if not all(hasattr(one, "ndim") for one in (first, second, targets)):
        return None
    before, after, truth = (np.asarray(one) for one in (first, second, targets))
    if before.ndim != 2 or before.shape[1] < 2 or truth.ndim != 1 or not np.issubdtype(truth.dtype, np.integer):
        return None
    count = before.shape[1]
    if truth.min() < 0 or truth.max() >= count:
        return None

    def counts(scores: Any) -> Any:
        table = np.zeros((count, count), dtype=np.int64)
        np.add.at(table, (truth, scores.argmax(1)), 1)
        return table

    return counts(before), counts(after)


def _class_drops(before: Any, after: Any) -> tuple[ClassDrop, ...]:
    drops = []
    for label in np.flatnonzero(before.sum(1)).tolist():
        samples = int(before[label].sum())
        errors = after[label] - before[label]
        errors[label] = 0
        worst = int(errors.argmax())
        mistaken = (worst, int(errors[worst])) if errors[worst] > 0 else (None, 0)
        recall, recall_after = (float(table[label, label] / samples) for table in (before, after))
        drops.append(ClassDrop(label, samples, recall, recall_after, *mistaken))
    return tuple(drops)


def _metric_drop(name: str, metric: Metric, first: Tree, second: Tree, targets: Any) -> MetricDrop:
    values = []
    for outputs in (first, second):
        try:
            values.append(float(metric(outputs, targets)))
        except Exception as error:
            raise ConfigError(
                f"debug_accuracy: metric {name!r} failed: {type(error).__name__}: {error}. It must take (outputs, "
                "targets) and return one number."
            ) from error
    return MetricDrop(name, *values)


def _frame(rows: tuple[Any, ...], kind: Any) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(kind.__dataclass_fields__))
