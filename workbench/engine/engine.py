"""The engine: a model loaded in a backend, checked against torch and ready to run. Imports no torch itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.core.checks import require_int
from workbench.core.errors import ConfigError, EngineError
from workbench.engine.autotune.api import TunableCalls
from workbench.engine.autotune.selection import Candidate, choose, load_checked
from workbench.engine.backends import get_backend, takes_onnx
from workbench.engine.backends.base import ModelSource
from workbench.engine.calls.batch_queue import Gatherer
from workbench.engine.calls.batching import Bound
from workbench.engine.calls.buffers import BufferPool, BufferStatistics
from workbench.engine.calls.pipeline import run_line
from workbench.engine.calls.result import InferenceResult
from workbench.engine.calls.session import CLOSED, NOT_YET, Runner
from workbench.engine.config import InferenceConfig, config_of
from workbench.engine.loading.int8_weights import weight_only
from workbench.engine.loading.placement import Placement, placement_of
from workbench.engine.loading.source import source_from_artifact, source_from_path, source_from_variant
from workbench.engine.loading.validation import load_notes, precision_of
from workbench.export.io import IOSpec

if TYPE_CHECKING:
    from workbench.compress.variant import Variant


class OptimizedInferenceEngine(TunableCalls):
    """A model in a backend.

    Use it in a ``with`` block, or call :meth:`initialize` and :meth:`dispose`. Threads may share it: as many calls as
    :attr:`parallel_calls` says run at once, others wait.

    Parameters
    ----------
    config : InferenceConfig
        What to load, and how to run it.
    source : ModelSource, optional
        The model, if ``config`` names no file; see :meth:`from_variant` and :meth:`from_artifact`.
    example_inputs : optional
        Inputs in the model's structure for checking a file's outputs. Without them they are made up: normal numbers,
        and integers as large as the model takes.

    Attributes
    ----------
    backend : str
        The backend that runs, also where the config said ``auto``.
    threads : int
        Threads of one call.
    load_s : float
        Seconds that the backend took to load the model, compiling included; importing the runtime is not counted.
    compile_s : float or None
        Seconds of ``load_s`` that were compiling; None where the backend does not do it in a step of its own.
    first_call_s : float or None
        Seconds of the first call, at the configured batch size; None where the outputs were not checked.
    max_abs_diff : float or None
        Largest difference of the outputs from the reference (torch's outputs for a few example inputs).
    precision : str
        What it computes in: that of the config, or float32 where backend or device do not have it.
    placement : Placement
        Where it runs, with the nodes by provider where the runtime tells, and what fell back to somewhere else.
    notes : tuple of str
        What a reader of its figures must know.
    selection : tuple of Candidate
        With ``backend="auto"``: what was measured, fastest first.
    io : IOSpec
        What the model takes and gives; ``io.batch`` is the only batch size where it is fixed, else None.

    Examples
    --------
    >>> with OptimizedInferenceEngine.from_variant(variant, backend="openvino", batch_size=16) as engine:
    ...     result = engine.predict(x)
    >>> result.metrics.inference_time_ms
    2.4
    """

    def __init__(
        self, config: InferenceConfig, *, source: ModelSource | None = None, example_inputs: Any = None
    ) -> None:
        if not isinstance(config, InferenceConfig):
            raise ConfigError(f"OptimizedInferenceEngine takes an InferenceConfig, got {type(config).__name__}.")
        if source is None and config.model_path is None:
            raise ConfigError(
                "InferenceConfig.model_path is not set. Give an ONNX file or an artefact's folder, "
                "or use OptimizedInferenceEngine.from_variant(variant)."
            )
        self.config = config
        self.backend, self.placement, self.threads = config.backend, Placement(""), config.threads or 0
        self.precision = config.precision.compute
        self.load_s = 0.0
        self.compile_s: float | None = None
        self.first_call_s: float | None = None
        self.max_abs_diff: float | None = None
        self.selection: tuple[Candidate, ...] = ()
        self._notes: dict[str, None] = {}
        self._given, self._examples = source, example_inputs
        self._runner: Runner | None = None
        self._pool = BufferPool(limit_mib=config.pool_limit_mib)
        self._disposed = False
        self._lock = threading.Lock()
        super().__init__()

    @classmethod
    def from_variant(cls, variant: Variant, **options: Any) -> Self:
        """Return an initialized engine for a variant; ``options`` are those of :class:`InferenceConfig`.

        torch's backends run a copy of the module, others an export that is made once and kept while the variant lives.

        Raises
        ------
        ConfigError, BackendUnavailable, ExportError
            If an option is wrong, the backend is missing, or the module cannot be exported for it.
        EngineError
            If outputs are too far from torch's.
        """
        config = config_of(options)
        source = source_from_variant(variant, onnx=takes_onnx(config.backend), batch=config.batch_size)
        return cls(config, source=source).initialize()

    @classmethod
    def from_artifact(
        cls,
        artifact: Artifact | str | Path,
        *,
        build: Callable[[], Any] | None = None,
        trust: bool = False,
        **options: Any,
    ) -> Self:
        """Return an initialized engine for an artefact or its folder.

        ``build`` (the task's) and ``trust`` are needed for the backends of torch only:
        see :func:`workbench.artifact.rebuild.load_module`. Raises as :meth:`from_variant`, and ArtifactError.
        """
        config = config_of(options)
        opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
        return cls(config, source=source_from_artifact(opened, build=build, trust=trust)).initialize()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of this engine's figures must know, a sentence each; running may add some."""
        if self._runner is not None:
            self._notes |= dict.fromkeys(self._runner.notes)
        return tuple(self._notes)

    @property
    def io(self) -> IOSpec:
        """What the model takes and gives."""
        return self._ready().io

    def initialize(self) -> Self:
        """Load the model and check its outputs against the reference; does nothing when it is loaded already.

        Raises
        ------
        EngineError
            After :meth:`dispose`, if the model cannot be loaded, or if its outputs are too far from the reference:
            for float models more than the precision's tolerance (0.001 of the reference's largest value in float32, see
            :data:`workbench.engine.precision.TOLERANCES`), for quantized ones not finite
            or a root mean square error above a tenth of the spread of the simulated model.
        """
        with self._lock:
            if self._disposed:
                self._ready()
            if self._runner is None:
                self._load()
        self.leave_to_others()
        return self

    def _load(self) -> None:
        config, source = self.config, self._source()
        choice = (choose if config.backend == "auto" else load_checked)(source, config)
        self.selection, session, agreement = choice.table, choice.session, choice.agreement
        if choice.table:
            self._note("auto: " + "; ".join(map(str, choice.table)))
        self.backend, self.load_s, self.precision = choice.backend, choice.load_s, precision_of(session)
        self.compile_s, self.first_call_s = getattr(session, "compile_s", None), choice.first_call_s
        self.max_abs_diff = agreement.max_abs_diff if agreement else None
        self._notes |= load_notes(source, session, config, agreement)
        self._keep = source.keep_alive
        self.placement, self.threads = placement_of(session), session.threads
        self._runner = Runner(session, config, source=source, backend=self.backend, note=self._note, pool=self._pool)

    def _source(self) -> ModelSource:
        source = self._given or source_from_path(str(self.config.model_path), example_inputs=self._examples)
        return source if self.config.quantization is None else weight_only(source)

    def _reload(self, config: InferenceConfig, note: str) -> None:
        with self._lock:
            before, selection, kept = self._ready(), self.selection, (self.config, self._notes)
            self.config, self._notes = config, {n: None for n in self._notes if n.startswith("auto: ")}
            try:
                self._load()
            except BaseException:  # the one that runs goes on
                self.config, self._notes = kept
                raise
            self.selection = selection
            self._note(note)
        before.close()

    def _note(self, note: str) -> None:
        self._notes[note] = None

    def _ready(self) -> Runner:
        runner = self._runner
        if runner is None:
            raise EngineError(CLOSED if self._disposed else NOT_YET)
        return runner

    def predict(self, inputs: Any, *, out: Any = None) -> InferenceResult:
        """Run one batch.

        Parameters
        ----------
        inputs
            numpy arrays or torch tensors ``[n, ...]`` in the structure the model takes (a tensor, a tuple, or a dict
            of keywords). float64 is converted to float32 and int32 to int64, with a note; other dtypes must fit.
        out : optional
            Buffers to write the outputs into, in their structure: :meth:`output_buffers` makes them. ONNX Runtime and
            OpenVINO write there themselves, and such a call allocates no memory for data; torch's backends copy.

        Returns
        -------
        InferenceResult
            ``result`` in the eager model's output structure, torch tensors if torch was given and else numpy
            arrays, owned by the caller; with ``out`` that object; and ``metrics``.

        Raises
        ------
        InputError
            If structure, dtype, shape or batch size do not fit, before the runtime sees anything.
        EngineError
            Before :meth:`initialize`, after :meth:`dispose`, or if the runtime fails.
        """
        return self._ready().predict(inputs, out)

    def output_buffers(self, size: int) -> Any:
        """Return arrays for the outputs of ``size`` samples, to be given to :meth:`predict` as ``out``.

        Raises
        ------
        InputError
            If the shape of an output depends on the input.

        Examples
        --------
        >>> buffers = engine.output_buffers(32)  # doctest: +SKIP
        >>> for x in images:
        ...     use(engine.predict(x, out=buffers).result)
        """
        return self._ready().outputs.new(require_int("output_buffers: size", size))

    @property
    def buffers(self) -> BufferStatistics:
        """What the pool did in which calls of several inputs are joined; its limit is ``config.pool_limit_mib``."""
        return self._pool.statistics

    @property
    def call_size(self) -> int:
        """Samples in one call of :meth:`predict_batch`: ``config.batch_size``, or the fixed batch of the export."""
        return self._ready().call_size

    @property
    def parallel_calls(self) -> int:
        """How many calls run at once: ``config.streams`` where the backend has them, else 1."""
        return self._ready().gate.width

    @property
    def overlaps(self) -> bool:
        """Whether a call can begin before the one before it has ended: on a GPU, and with streams."""
        runner = self._ready()
        return runner.ahead is not None or runner.gate.width > 1

    @property
    def prefers_one_thread(self) -> bool:
        """Whether the runtime's workers belong to the thread that calls, as torch's do."""
        return get_backend(self.backend).capabilities.threads == "process"

    def leave_to_others(self) -> None:
        """Say that other threads than the one that calls are to run the engine: torch's workers follow one only."""
        if self.prefers_one_thread:
            from workbench.engine.process.threads import leave_to_others

            leave_to_others()

    def bound(self, inputs: Any, position: int | None = None) -> Bound:
        """Return inputs checked and flattened, as :meth:`run_bound` takes them; raises as :meth:`predict`."""
        return self._ready().bound(inputs, position)

    def run_bound(self, bound: Sequence[Bound], batch: int) -> list[InferenceResult]:
        """Run checked inputs in calls of ``batch`` samples (or the fixed batch), and return their results in order."""
        return self._ready().run_bound(bound, batch)

    def run_line(self, line: Gatherer[Bound], batch: int) -> Iterator[list[InferenceResult]]:
        """Run what a line hands out in calls of ``batch`` samples, group by group, until it ends."""
        return run_line(self._ready(), line, batch)

    def dispose(self) -> None:
        """Free the model and put back what was switched for it. May be called twice."""
        with self._lock:
            self._disposed = True
            self._notes |= dict.fromkeys(self.notes)
            runner, self._runner = self._runner, None
            self._given = self._keep = None
        if runner is not None:
            runner.close()
        self._drop_calls()

    def __reduce_ex__(self, _protocol: object) -> Any:
        raise EngineError(
            "An engine holds a loaded model, which cannot be pickled. Pickle engine.config with a model_path, or the "
            "artefact's folder, and make the engine where it is unpickled."
        )

    def __enter__(self) -> Self:
        return self.initialize()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispose()

    def __repr__(self) -> str:
        state = "disposed" if self._disposed else "ready" if self._runner is not None else "not initialized"
        return f"OptimizedInferenceEngine({self.backend}, batch_size={self.config.batch_size}, {state})"
