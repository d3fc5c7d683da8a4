"""Measure the latency of variants on an engine, for compression steps with a latency criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from workbench.compress.steps import Step
from workbench.core.checks import given, require_int
from workbench.core.errors import ConfigError
from workbench.engine.backends import require_backend
from workbench.engine.engine import OptimizedInferenceEngine
from workbench.tasks.trees import tree_map
from workbench.timing.blocks import Block
from workbench.timing.interleave import CallArm, interleave
from workbench.timing.pace import Timing, pace_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workbench.compress.recipe import Recipe
    from workbench.compress.variant import Variant

_BLOCK_S, _SETTLE_S = 0.04, 0.02
_ROUNDS = (4, 12)
_NARROW = 0.05


class LatencyCost:
    """Callable that returns the latency of a variant on one engine in ms per batch.

    The first variant is the reference, in a search the original one. Later ones are interleaved with it, and their
    latency is the reference's divided by the paired speedup, so that drift of the machine cancels between candidates.

    Parameters
    ----------
    backend : str
        ``"torch-eager"``, ``"onnxruntime"`` or ``"openvino"``.
    batch_size : int
        Samples per call.
    threads : int, optional
        Threads of one call; None: the engine's default.

    Examples
    --------
    >>> with LatencyCost("onnxruntime", batch_size=8) as cost:  # doctest: +SKIP
    ...     cost(variant)
    0.84
    """

    def __init__(self, backend: str, *, batch_size: int = 32, threads: int | None = None) -> None:
        require_backend(backend)
        self.measures = (backend, batch_size)
        self._threads = threads
        self._reference: tuple[OptimizedInferenceEngine, CallArm, float] | None = None

    def __call__(self, variant: Variant) -> float:
        """Return the latency in ms per batch; raise ExportError or EngineError if the variant cannot run."""
        engine, arm = self._open(variant)
        if self._reference is None:
            blocks = interleave([arm], rounds=(_ROUNDS[0], _ROUNDS[0]), block_s=_BLOCK_S).timed
            ms = Timing.of(blocks["reference"]).p50
            self._reference = engine, arm, ms
            return ms
        _, reference, ms = self._reference
        try:
            blocks = interleave([reference, arm], rounds=_ROUNDS, block_s=_BLOCK_S, enough=_narrow).timed
        finally:
            engine.dispose()
        return ms / pace_ratio(blocks["reference"], blocks["candidate"]).ratio

    def close(self) -> None:
        """Close the reference engine; the next variant becomes the reference."""
        reference, self._reference = self._reference, None
        if reference is not None:
            reference[0].dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, variant: Variant) -> tuple[OptimizedInferenceEngine, CallArm]:
        backend, size = self.measures
        options: dict[str, Any] = {"backend": backend, "batch_size": size, "threads": self._threads}
        engine = OptimizedInferenceEngine.from_variant(variant, verify=False, **options)
        inputs = tree_map(lambda x: x.numpy(), variant.task.examples(size))
        name = "candidate" if self._reference else "reference"
        arm = CallArm(name, lambda: engine.predict(inputs), settle_s=_SETTLE_S)
        arm.warm()
        return engine, arm


def _narrow(blocks: Mapping[str, list[Block]]) -> bool:
    pace = pace_ratio(blocks["reference"], blocks["candidate"], resamples=500)
    return pace.high / pace.low < 1 + _NARROW


def latency_cost(recipe: Recipe, *, threads: int | None = None) -> LatencyCost | None:
    """Return the latency cost function for the steps of ``recipe``, or None if no step needs one.

    Raises
    ------
    ConfigError, BackendUnavailable
        If the steps name different engines or batch sizes, or an unavailable engine.

    Examples
    --------
    >>> recipe = wb.Recipe(wb.Prune(0.4, of="latency", engine="openvino"))  # doctest: +SKIP
    >>> recipe.apply(task, cost=wb.latency_cost(recipe))  # doctest: +SKIP
    """
    _check_recipe(recipe)
    if threads is not None:
        require_int("latency_cost: threads", threads)
    targets = dict.fromkeys(step.measured_on for step in recipe.steps if step.measured_on is not None)
    if len(targets) > 1:
        names = " and ".join(f"{engine} at batch {batch}" for engine, batch in targets)
        raise ConfigError(
            f"latency_cost: all steps must use one engine and batch size, got {names} in '{recipe.label}'. Change the "
            "steps, or apply the recipe in two parts."
        )
    for engine, batch in targets:
        return LatencyCost(engine, batch_size=batch, threads=threads)
    return None


def _check_recipe(recipe: object) -> None:
    from workbench.compress.recipe import Recipe

    if not isinstance(recipe, Recipe):
        remedy = " Write wb.latency_cost(wb.Recipe(step))." if isinstance(recipe, Step) else ""
        raise ConfigError(f"latency_cost: recipe must be a Recipe, got {given(recipe)}.{remedy}")
