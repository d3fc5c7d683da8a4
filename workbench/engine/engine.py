"""The engine: a model loaded in a backend, verified against torch, and ready to run. Imports no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from workbench.artifact.artifact import Artifact, open_artifact
from workbench.core.checks import require_bool, require_int
from workbench.core.errors import ConfigError, EngineError
from workbench.engine.autotune.api import check_request, config_for_backend, tune
from workbench.engine.autotune.autotuner import Autotuner
from workbench.engine.autotune.result import Candidate, TuneResult, describe
from workbench.engine.backends import takes_onnx
from workbench.engine.backends.base import ModelSource, Placement, placement_of, precision_of
from workbench.engine.binding.buffers import BufferPool, BufferStatistics
from workbench.engine.calls.batcher import AwaitedCalls, Batcher, predict_batch
from workbench.engine.calls.batching import InferenceResult
from workbench.engine.calls.session import CLOSED, NOT_YET, EngineSession
from workbench.engine.calls.streaming import stream
from workbench.engine.config import InferenceConfig, config_of
from workbench.engine.loading.int8_weights import weight_only
from workbench.engine.loading.load import load_checked, load_notes
from workbench.engine.loading.source import source_from_artifact, source_from_path, source_from_variant
from workbench.export.io import IOSpec

if TYPE_CHECKING:
    from workbench.compress.variant import Variant


class OptimizedInferenceEngine:
    """A model in a backend.

    Use it in a ``with`` block, or call :meth:`initialize` and :meth:`dispose`. Threads may share an engine. ``source``
    is the model if ``config`` names no file; ``example_inputs``, in the model's structure, replace random ones to check
    the outputs of a file.

    ``backend``, ``precision``, ``threads`` (of one call) and ``placement`` (device or provider, with fallbacks) are the
    actual ones. ``load_s``, ``compile_s`` and ``first_call_s`` are seconds to load the model (compiling included), to
    compile it in a separate step, and for its first call. ``max_abs_diff`` is the largest difference of the outputs
    from the reference (torch's outputs for a few examples). ``selection`` has the measured candidates of
    ``backend="auto"``, fastest first. ``session`` is the loaded model between initialize and dispose, else None.

    Examples
    --------
    >>> with OptimizedInferenceEngine.from_variant(variant, backend="openvino", batch_size=16) as engine:
    ...     result = engine.predict(x)
    """

    def __init__(
        self, config: InferenceConfig, *, source: ModelSource | None = None, example_inputs: Any = None
    ) -> None:
        if not isinstance(config, InferenceConfig):
            raise ConfigError(f"OptimizedInferenceEngine takes an InferenceConfig, got {type(config).__name__}.")
        if source is None and config.model_path is None:
            raise ConfigError(
                "InferenceConfig.model_path is not set. Give an ONNX file or an artifact's folder, "
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
        self.session: EngineSession | None = None
        self._notes: dict[str, None] = {}
        self._given, self._examples = source, example_inputs
        self._untuned: InferenceConfig | None = None
        self._pool = BufferPool(limit_mib=config.pool_limit_mib)
        self._awaited = AwaitedCalls(self._ready)
        self._disposed = False
        self._lock = threading.Lock()

    @classmethod
    def from_variant(cls, variant: Variant, **options: Any) -> Self:
        """Return an initialized engine for a variant; ``options`` are those of :class:`InferenceConfig`.

        Torch's backends run a copy of the module; others run an export that is reused while the variant lives. Raises
        ConfigError, BackendUnavailable or ExportError if the variant cannot run, and as :meth:`initialize`.
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
        """Return an initialized engine for an artifact or its folder.

        Torch's backends need ``build`` (the task's) or ``trust``: see :func:`workbench.artifact.load.load_module`.
        """
        config = config_of(options)
        opened = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
        return cls(config, source=source_from_artifact(opened, build=build, trust=trust)).initialize()

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about this engine's figures; calls may add some."""
        if self.session is not None:
            self._notes |= dict.fromkeys(self.session.notes)
        return tuple(self._notes)

    @property
    def io(self) -> IOSpec:
        """Inputs and outputs of the model; ``io.batch`` is a fixed batch size, else None."""
        return self._ready().io

    def initialize(self) -> Self:
        """Load the model and verify its outputs; does nothing if it is loaded.

        Raises EngineError after :meth:`dispose`, if loading fails, or if outputs differ from the reference by more than
        ``config.tolerance`` (quantized: a root mean square error above a tenth of the simulated model's spread).
        """
        with self._lock:
            if self._disposed:
                self._ready()
            if self.session is None:
                self._load()
        self._ready().release_workers()
        return self

    def _load(self) -> None:
        config, source = self.config, self._source()
        if config.backend == "auto":
            model, self.selection = Autotuner(source, config).choose_backend()
            self._note("auto: " + "; ".join(map(str, self.selection)))
        else:
            model, self.selection = load_checked(source, config), ()
        session, agreement = model.session, model.agreement
        self.backend, self.load_s, self.precision = model.backend, model.load_s, precision_of(session)
        self.compile_s, self.first_call_s = getattr(session, "compile_s", None), model.first_call_s
        self.max_abs_diff = agreement.max_abs_diff if agreement else None
        self._notes |= load_notes(source, model, config)
        self._keep = source.keep_alive
        self.placement, self.threads = placement_of(session), session.threads
        self.session = EngineSession(
            session, config, source=source, backend=self.backend, note=self._note, pool=self._pool
        )

    def _source(self) -> ModelSource:
        source = self._given or source_from_path(str(self.config.model_path), example_inputs=self._examples)
        return source if self.config.quantization is None else weight_only(source)

    def _reload(self, config: InferenceConfig, note: str) -> None:
        with self._lock:
            before, selection, kept = self._ready(), self.selection, (self.config, self._notes)
            self.config, self._notes = config, {n: None for n in self._notes if n.startswith("auto: ")}
            try:
                self._load()
            except BaseException:  # the loaded model goes on
                self.config, self._notes = kept
                raise
            self.selection = selection
            self._note(note)
        before.close()

    def _note(self, note: str) -> None:
        self._notes[note] = None

    def _ready(self) -> EngineSession:
        session = self.session
        if session is None:
            raise EngineError(CLOSED if self._disposed else NOT_YET)
        return session

    def predict(self, inputs: Any, *, out: Any = None) -> InferenceResult:
        """Run one batch of numpy arrays or torch tensors ``[n, ...]`` in the model's structure.

        float64 is converted to float32 and int32 to int64, with a note; other dtypes must match. The ``result`` has the
        eager model's output structure in the inputs' library. With ``out``, from :meth:`output_buffers`, outputs are
        written there: directly by ONNX Runtime and OpenVINO, as a copy by torch.

        Raises InputError if inputs do not fit, and EngineError if the engine is not ready or the runtime fails.
        """
        return self._ready().predict(inputs, out)

    def output_buffers(self, size: int) -> Any:
        """Return arrays for the outputs of ``size`` samples; InputError if an output's shape depends on the input."""
        return self._ready().outputs.new(require_int("output_buffers: size", size))

    @property
    def buffers(self) -> BufferStatistics:
        """Statistics of the pool that joins inputs; its limit is ``config.pool_limit_mib``."""
        return self._pool.statistics

    @property
    def call_size(self) -> int:
        """Samples in one call of :meth:`predict_batch`: ``config.batch_size``, or the fixed batch of the export."""
        return self._ready().call_size

    @property
    def parallel_calls(self) -> int:
        """Number of calls that run at once: ``config.streams`` for backends with streams, else 1."""
        return self._ready().parallel_calls

    def predict_batch(self, items: Sequence[Any]) -> list[InferenceResult]:
        """Run many inputs of any batch size in calls of :attr:`call_size` samples; results keep the order.

        Nothing runs if one item does not fit; the InputError names its position.
        """
        return predict_batch(self._ready(), items)

    async def apredict(self, inputs: Any, *, copy: bool = True) -> InferenceResult:
        """Run one batch on a thread of the engine, without blocking the event loop.

        Calls begin in the order of awaiting. Those that wait while the engine is disposed raise EngineError. With
        ``copy=False`` inputs must not change until the result is there.
        """
        return await self._awaited.predict(inputs, copy=require_bool("apredict: copy", copy))

    def batcher(
        self,
        *,
        batch_size: int | None = None,
        max_wait_ms: float | None = 2.0,
        pending: int | None = None,
        copy: bool = True,
    ) -> Batcher:
        """Return a dynamic batcher, which joins the calls of several threads; see :class:`Batcher`."""
        return Batcher(self._ready, batch_size=batch_size, max_wait_ms=max_wait_ms, pending=pending, copy=copy)

    def stream(
        self,
        items: Iterable[Any],
        *,
        batch_size: int | None = None,
        max_wait_ms: float | None = None,
        prefetch: int = 4,
        copy: bool = True,
    ) -> Iterator[InferenceResult]:
        """Yield the result of each item, in order, while further items are read and run.

        Reading and calls get threads of their own if reading, or using the results, takes more than 3 % of the calls'
        time; torch's calls stay on the caller's thread. Leaving early stops the reading and waits for it up to 1 s.

        ``batch_size`` is the number of samples in one call, by default :attr:`call_size`; ``max_wait_ms`` the longest
        wait of an item for a full batch, None without limit; ``prefetch`` the number of batches to read ahead. With
        ``copy=False`` an item must not change until its result is there. Errors of an item are raised after the results
        of earlier items.
        """
        return stream(self._ready, items, batch_size=batch_size, max_wait_ms=max_wait_ms, prefetch=prefetch, copy=copy)

    def tune(
        self, *, budget_s: float = 30.0, goal: str = "latency", inputs: Any = None, again: bool = False
    ) -> TuneResult:
        """Measure threads, memory format, spinning workers and streams on this machine, and load the fastest setting.

        Options are tried one after the other, each on top of the best so far, interleaved with the default. The winner
        is measured once more and loaded only if the 95 % CI of its time over the default's is below 1. Decided results
        are stored for this machine. Nothing else should use the machine or this engine meanwhile.

        ``goal`` is ``"latency"`` (one call at a time) or ``"throughput"`` (as many as the engine runs at once).
        ``inputs`` are those of :meth:`predict` for one call, by default the model's examples; ``budget_s`` includes
        loading; ``again`` ignores a stored result. Raises ConfigError for an engine that is not on the CPU.
        """
        check_request(budget_s, goal, self.placement.place)
        session, base = self._ready(), self._untuned or self.config
        settings = self.selection[0].settings if self.selection else {}
        config = config_for_backend(base, self.backend, settings)
        arrays = None if inputs is None else session.bound(inputs).arrays
        result = tune(self._source(), config, arrays, goal=goal, budget_s=budget_s, again=again)
        if result.config != config_for_backend(self.config, self.backend, settings):
            self._untuned = base
            self._reload(result.config, f"tuned for {goal}: {describe(result.changes)}")
        return result

    def dispose(self) -> None:
        """Free the model and restore process-wide settings. May be called twice."""
        with self._lock:
            self._disposed = True
            self._notes |= dict.fromkeys(self.notes)
            session, self.session = self.session, None
            self._given = self._keep = None
        if session is not None:
            session.close()
        self._awaited.close()

    def __reduce_ex__(self, _protocol: object) -> Any:
        raise EngineError(
            "An engine holds a loaded model, which cannot be pickled. Pickle engine.config with a model_path, or the "
            "artifact's folder, and make the engine after unpickling."
        )

    def __enter__(self) -> Self:
        return self.initialize()

    def __exit__(self, *_: object) -> None:
        self.dispose()

    def __repr__(self) -> str:
        state = "disposed" if self._disposed else "ready" if self.session is not None else "not initialized"
        return f"OptimizedInferenceEngine({self.backend}, batch_size={self.config.batch_size}, {state})"
