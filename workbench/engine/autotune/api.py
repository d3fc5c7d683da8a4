"""The engine's own tuning: check what was asked for, look for an earlier result, measure, keep it, load the winner."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.checks import require_positive
from workbench.core.config import short_id
from workbench.core.errors import ConfigError, EngineError, InputError, WorkbenchError, unknown_name
from workbench.core.files import cache_dir, write_json
from workbench.core.machine import default_threads, fingerprint
from workbench.engine.autotune.result import TunedSetting, TuneResult, describe
from workbench.engine.autotune.search import GOALS, Search
from workbench.engine.autotune.selection import Candidate
from workbench.engine.backends import runs_module
from workbench.engine.backends.base import ModelSource, require_module, require_onnx
from workbench.engine.calls.concurrent import ConcurrentCalls
from workbench.engine.config import ONLY_FOR, InferenceConfig
from workbench.engine.loading.onnx_files import digest_of, onnx_files
from workbench.engine.loading.placement import Placement
from workbench.engine.names import DEFAULT_BACKENDS

FORMAT = 2


class TunableCalls(ConcurrentCalls):
    """An engine that can measure its own settings."""

    config: InferenceConfig
    backend: str
    placement: Placement
    selection: tuple[Candidate, ...]
    _untuned: InferenceConfig | None = None
    """The config that tuning started from, once it was changed: a second tuning starts there too."""

    @abstractmethod
    def _source(self) -> ModelSource:
        """Return the model as it is given to a backend."""

    @abstractmethod
    def _reload(self, config: InferenceConfig, note: str) -> None:
        """Load the model with another config in place of the one that runs."""

    def tune(
        self, *, budget_s: float = 30.0, goal: str = "latency", inputs: Any = None, again: bool = False
    ) -> TuneResult:
        """Measure threads and layout on this machine, and go on with the fastest setting.

        Numbers of threads are tried, the memory format of torch's backends, whether ONNX Runtime's workers spin, and
        (``goal="throughput"``) OpenVINO's streams, each on top of the best so far, in blocks that take turns with the
        engine's own settings. The winner is measured once more, and chosen only if the 95 % CI of its time over
        the default's lies wholly below 1. The result is kept for this machine, model, backend, batch size and config;
        one that the time did not suffice for (``decided`` is False) is not, and leaves an earlier one as it was.

        Nothing else should use the machine meanwhile, this engine included: other threads must not call it.

        Parameters
        ----------
        budget_s : float
            Seconds for all of it, loading included. One round of calls and one load may last beyond.
        goal : str
            ``"latency"``: one call at a time. ``"throughput"``: as many as the engine runs at once.
        inputs : optional
            What :meth:`predict` takes, with ``config.batch_size`` samples; None: the model's example inputs.
        again : bool
            Measure also where there is an earlier result, and replace it by one that is decided.

        Raises
        ------
        ConfigError, InputError
            If an argument cannot be used, or the engine does not run on the CPU.
        EngineError
            Where the engine is not ready, or has no example inputs and none are given.

        Examples
        --------
        >>> with wb.OptimizedInferenceEngine.from_variant(variant, backend="torch-eager") as engine:
        ...     result = engine.tune(budget_s=20)  # doctest: +SKIP
        >>> result.verdict  # doctest: +SKIP
        "Chosen: threads=1, 0.81 of the default's time (95 % CI 0.79-0.83)."
        """
        _check(budget_s, goal, self.placement.place)
        size = self.call_size
        settings = self.selection[0].settings if self.selection else {}
        config = own_config(self._untuned or self.config, self.backend, settings)
        source = self._source()
        arrays = self._tuning_inputs(source, inputs, size)
        path = _path(source, config, arrays, goal)
        found = None if again else _read(path, config)
        if found is None:
            found = _kept(Search(source, config, arrays, goal=goal, budget_s=budget_s).result(), path)
        if found.config != own_config(self.config, self.backend, settings):
            self._untuned = self._untuned or self.config
            self._reload(found.config, f"tuned for {goal}: {describe(found.changes)}")
        return found

    def _tuning_inputs(self, source: ModelSource, inputs: Any, size: int) -> Arrays:
        if inputs is not None:
            bound = self.bound(inputs)
            if bound.size != size:
                raise InputError(
                    f"tune: inputs must have {size} samples, as many as a call of this engine has, got {bound.size}."
                )
            return bound.arrays
        if source.reference is None:
            raise EngineError(
                f"engine.tune needs inputs to run, and {source.label} has no examples. Give inputs={size} samples as "
                "predict takes them."
            )
        return source.reference.tiled_inputs(size)


def _check(budget_s: object, goal: object, placement: str) -> None:
    require_positive("tune: budget_s", budget_s, unit="seconds")
    if goal not in GOALS:
        raise ConfigError(f"tune: {unknown_name('goal', goal, GOALS)}")
    if placement and "cpu" not in placement.lower():
        raise ConfigError(
            f"engine.tune measures settings of the CPU, and this engine runs on {placement}. "
            "Load it without use_gpu=True."
        )


def own_config(config: InferenceConfig, backend: str, settings: Mapping[str, Any]) -> InferenceConfig:
    """Return the config for the backend that runs, in the settings in which ``auto`` chose it.

    Options that mean something to its other candidates only go back to their defaults.
    """
    if config.backend != "auto":
        return config
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    idle = {name: defaults[name] for name, backends in ONLY_FOR.items() if backend not in backends}
    return config.replace(backend=backend, candidates=DEFAULT_BACKENDS, **{**idle, **settings})


def model_digest(source: ModelSource, backend: str) -> str:
    """Return a hash of what a backend loads: the ONNX file with its outside data, or the module's code and weights."""
    if source.openvino_path is not None:
        return digest_of([source.openvino_path, source.openvino_path.with_suffix(".bin")])
    if not runs_module(backend):
        return digest_of(onnx_files(require_onnx(source, backend)))
    import torch

    module = require_module(source, backend)
    found = hashlib.sha256()
    found.update(repr(module).encode() + str(getattr(module, "code", "")).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if hasattr(tensor, "detach"):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _path(source: ModelSource, config: InferenceConfig, inputs: Arrays, goal: str) -> Path:
    known = {
        "format": FORMAT,
        "machine": fingerprint(),
        "threads": default_threads(),
        "model": model_digest(source, config.backend),
        "config": {**config.to_dict(), "model_path": None},
        "inputs": [[list(array.shape), array.dtype.name] for array in inputs],
        "goal": goal,
    }
    return cache_dir() / "tuning" / f"{config.backend}-{short_id(known)}.json"


def _kept(result: TuneResult, path: Path) -> TuneResult:
    """Write a result for the next time; where that is not possible, or it is undecided, a note says so."""
    if not result.decided:
        why = "an earlier result stays, tune() takes it" if path.is_file() else "the time did not suffice for one"
        return dataclasses.replace(result, notes=(*result.notes, f"not kept for the next time: {why}"))
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    values["table"] = [dataclasses.asdict(row) for row in result.table]
    del values["config"]  # the engine's own with these changes
    try:
        write_json(path, {"format": FORMAT, "result": values}, indent=1)
    except WorkbenchError as error:
        return dataclasses.replace(result, notes=(*result.notes, f"not kept for the next time: {error}"))
    return result


def _read(path: Path, config: InferenceConfig) -> TuneResult | None:
    """Return an earlier result; None where there is none, or what is there cannot be understood."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, ConfigError):
        values = json.loads(path.read_text())["result"]
        table = tuple(TunedSetting(**row) for row in values.pop("table"))
        notes = tuple(values.pop("notes"))
        changed = config.replace(**values["changes"])
        return TuneResult(**{**values, "cached": True}, table=table, notes=notes, config=changed)
    return None
