"""What a variant costs on an engine here, measured: for steps that go by latency instead of by a count."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from workbench.compress.steps import Step
from workbench.core.checks import given, require_int
from workbench.core.errors import ConfigError
from workbench.engine.backends import require_backend
from workbench.engine.engine import OptimizedInferenceEngine
from workbench.tasks.trees import tree_map
from workbench.timing.arms import CallArm
from workbench.timing.blocks import Block
from workbench.timing.interleave import interleave
from workbench.timing.pace import pace_ratio
from workbench.timing.summary import Timing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workbench.compress.recipe import Recipe
    from workbench.compress.variant import Variant

_BLOCK_S, _SETTLE_S = 0.04, 0.02
_ROUNDS = (4, 12)
_NARROW = 0.05


@dataclass
class _Reference:
    """The first variant that was measured: its engine stays open, and what follows is timed in turns with it."""

    engine: OptimizedInferenceEngine
    arm: CallArm
    ms: float


class LatencyCost:
    """Calls with a variant return its latency in ms per batch on one engine.

    The first variant measured is the reference, in a search the one not cut yet. Every later one is timed in turns with
    it, and its latency is the reference's divided by the median of the paired ratios: so that the candidates of a
    search can be compared although the machine's pace drifts between them.

    Parameters
    ----------
    backend : str
        Where to measure: ``"torch-eager"``, ``"onnxruntime"`` or ``"openvino"``.
    batch_size : int
        Samples per call.
    threads : int, optional
        Threads of one call; None: as many as an engine takes by itself.

    Raises
    ------
    ConfigError, BackendUnavailable
        If there is no such backend, or it cannot run here.

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
        self._reference: _Reference | None = None

    def __call__(self, variant: Variant) -> float:
        """Return the latency in ms per batch.

        Raises
        ------
        ExportError, EngineError
            If the variant cannot run on the engine.
        """
        engine, arm = self._open(variant)
        if self._reference is None:
            timed = interleave([arm], rounds=(_ROUNDS[0], _ROUNDS[0]), block_s=_BLOCK_S)
            self._reference = _Reference(engine, arm, Timing.of(timed.timed[arm.name]).p50)
            return self._reference.ms
        reference = self._reference
        try:
            timed = interleave([reference.arm, arm], rounds=_ROUNDS, block_s=_BLOCK_S, enough=self._narrow)
        finally:
            engine.dispose()
        return reference.ms / pace_ratio(timed.timed[reference.arm.name], timed.timed[arm.name]).ratio

    def close(self) -> None:
        """Free the reference; the next variant measured becomes it."""
        reference, self._reference = self._reference, None
        if reference is not None:
            reference.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def _narrow(self, blocks: Mapping[str, list[Block]]) -> bool:
        found = pace_ratio(blocks["reference"], blocks["candidate"], resamples=500)
        return found.high / found.low < 1 + _NARROW


def latency_cost(recipe: Recipe, *, threads: int | None = None) -> LatencyCost | None:
    """Return what measures the latency that steps of ``recipe`` go by, or None where none does.

    Raises
    ------
    ConfigError, BackendUnavailable
        If ``recipe`` is no Recipe, or its steps name different engines or batch sizes, or one that is unknown or
        cannot run here.

    Examples
    --------
    >>> recipe = wb.Recipe(wb.Prune(0.4, of="latency", engine="openvino"))  # doctest: +SKIP
    >>> recipe.apply(task, cost=wb.latency_cost(recipe))  # doctest: +SKIP
    """
    _check_recipe(recipe)
    if threads is not None:
        require_int("latency_cost: threads", threads)
    wanted = dict.fromkeys(step.measured_on for step in recipe.steps if step.measured_on is not None)
    if len(wanted) > 1:
        shown = " and ".join(f"{engine} at batch {batch}" for engine, batch in wanted)
        raise ConfigError(
            f"The recipe '{recipe.label}' goes by latency on {shown}. Measure all of its steps on one engine and batch "
            "size, or apply it in two parts."
        )
    for engine, batch in wanted:
        return LatencyCost(engine, batch_size=batch, threads=threads)
    return None


def _check_recipe(recipe: object) -> None:
    from workbench.compress.recipe import Recipe

    if not isinstance(recipe, Recipe):
        advice = "Put the step into one: wb.latency_cost(wb.Recipe(step))." if isinstance(recipe, Step) else ""
        raise ConfigError(f"latency_cost takes a Recipe, got {given(recipe)}. {advice}".strip())
