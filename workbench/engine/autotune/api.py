"""Tune an engine's config: check the request, look up a stored result, measure, store."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.artifact.reference import Arrays
from workbench.core.checks import require_positive
from workbench.core.config import short_id
from workbench.core.errors import ConfigError, EngineError, InputError, WorkbenchError, unknown_name
from workbench.core.files import cache_dir, write_json
from workbench.core.machine import default_threads, fingerprint
from workbench.engine.autotune.autotuner import GOALS, Autotuner
from workbench.engine.autotune.result import TunedSetting, TuneResult
from workbench.engine.backends import runs_module
from workbench.engine.backends.base import ModelSource, require_module, require_onnx
from workbench.engine.backends.onnx_files import digest_of, onnx_files
from workbench.engine.config import ONLY_FOR, InferenceConfig
from workbench.engine.names import DEFAULT_BACKENDS

FORMAT = 2


def check_request(budget_s: object, goal: object, placement: str) -> None:
    """Raise ConfigError for invalid arguments of a tuning, and for an engine that is not on the CPU."""
    require_positive("tune: budget_s", budget_s, unit="seconds")
    if goal not in GOALS:
        raise ConfigError(f"tune: {unknown_name('goal', goal, GOALS)}")
    if placement and "cpu" not in placement.lower():
        raise ConfigError(
            f"engine.tune measures settings of the CPU, and this engine runs on {placement}. "
            "Load it without use_gpu=True."
        )


def tune(
    source: ModelSource, config: InferenceConfig, inputs: Arrays | None, *, goal: str, budget_s: float, again: bool
) -> TuneResult:
    """Return the stored result of a tuning, or measure and store one.

    Raises InputError for another number of samples than one call has, and EngineError if there are no inputs.
    """
    size = source.io.batch or config.batch_size
    if inputs is None:
        if source.reference is None:
            raise EngineError(
                f"engine.tune needs inputs, and {source.label} has no examples. Give inputs={size} samples as "
                "predict takes them."
            )
        inputs = source.reference.tiled_inputs(size)
    elif (given := len(inputs[0])) != size:
        raise InputError(f"tune: inputs must have {size} samples, as one call of this engine, got {given}.")
    path = _path(source, config, inputs, goal)
    stored = None if again else _read(path, config)
    return stored or _stored(Autotuner(source, config, inputs, goal=goal, budget_s=budget_s).tune(), path)


def config_for_backend(config: InferenceConfig, backend: str, settings: Mapping[str, Any]) -> InferenceConfig:
    """Return the config of the backend that ``auto`` chose with some settings; others' options get their defaults."""
    if config.backend != "auto":
        return config
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    unused = {name: defaults[name] for name, backends in ONLY_FOR.items() if backend not in backends}
    return config.replace(backend=backend, candidates=DEFAULT_BACKENDS, **{**unused, **settings})


def model_digest(source: ModelSource, backend: str) -> str:
    """Return a hash of what a backend loads: model files with external weights, or the module's code and weights."""
    if source.openvino_path is not None:
        return digest_of([source.openvino_path, source.openvino_path.with_suffix(".bin")])
    if not runs_module(backend):
        return digest_of(onnx_files(require_onnx(source, backend)))
    import torch

    module = require_module(source, backend)
    digest = hashlib.sha256()
    digest.update(repr(module).encode() + str(getattr(module, "code", "")).encode())
    for name, tensor in sorted(module.state_dict().items()):
        if hasattr(tensor, "detach"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _path(source: ModelSource, config: InferenceConfig, inputs: Arrays, goal: str) -> Path:
    key = {
        "format": FORMAT,
        "machine": fingerprint(),
        "threads": default_threads(),
        "model": model_digest(source, config.backend),
        "config": {**config.to_dict(), "model_path": None},
        "inputs": [[list(array.shape), array.dtype.name] for array in inputs],
        "goal": goal,
    }
    return cache_dir() / "tuning" / f"{config.backend}-{short_id(key)}.json"


def _stored(result: TuneResult, path: Path) -> TuneResult:
    """Store a decided result; a note holds the reason if that is not possible."""
    if result.decided:
        values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        values["table"] = [dataclasses.asdict(row) for row in result.table]
        del values["config"]  # the engine's own with these changes
        try:
            write_json(path, {"format": FORMAT, "result": values}, indent=1)
            return result
        except WorkbenchError as error:
            reason = str(error)
    else:
        reason = "an earlier result stays, tune() takes it" if path.is_file() else "the time did not suffice for one"
    return dataclasses.replace(result, notes=(*result.notes, f"not kept for the next time: {reason}"))


def _read(path: Path, config: InferenceConfig) -> TuneResult | None:
    """Return a stored result, None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, ConfigError):
        values = json.loads(path.read_text())["result"]
        table = tuple(TunedSetting(**row) for row in values.pop("table"))
        notes = tuple(values.pop("notes"))
        changed = config.replace(**values["changes"])
        return TuneResult(**{**values, "cached": True}, table=table, notes=notes, config=changed)
    return None
