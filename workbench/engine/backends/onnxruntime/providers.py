"""Choose the execution providers of an ONNX Runtime session, and report fallbacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.core.errors import ConfigError, unknown_name
from workbench.engine.backends.base import Availability
from workbench.engine.config import InferenceConfig
from workbench.engine.device import device_index, gpu_request, wants_gpu

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ENDING = "ExecutionProvider"
_ALIASES = {"dml": "directml"}
# Providers of use_gpu=True: the first one in this build of ONNX Runtime.
_ON_GPU = (CUDA, "MIGraphXExecutionProvider", "DmlExecutionProvider", "CoreMLExecutionProvider")
_HOW = {
    CUDA: "pip install onnxruntime-gpu on a machine with CUDA",
    "TensorrtExecutionProvider": "pip install onnxruntime-gpu tensorrt on a machine with CUDA",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino",
    "DmlExecutionProvider": "pip install onnxruntime-directml on Windows",
    "CoreMLExecutionProvider": "pip install onnxruntime on macOS",
}
_TAKE_NONE = (CPU, "AzureExecutionProvider")
"""Providers whose options ONNX Runtime drops silently (1.32)."""
_CUDA_DEVICES = (CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


@dataclasses.dataclass(frozen=True)
class Providers:
    """The requested providers with their options, in order; ``missing`` has a note on each that this build lacks."""

    requested: tuple[tuple[str, dict[str, str]], ...]
    missing: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the requested providers, the preferred one first."""
        return tuple(name for name, _ in self.requested)


def short_name(provider: str) -> str:
    """Return the short name of a provider: ``"cuda"`` for ``"CUDAExecutionProvider"``."""
    short = provider.removesuffix(_ENDING).lower()
    return _ALIASES.get(short, short)


def choose_providers(config: InferenceConfig, *, names: Sequence[str], available: Sequence[str]) -> Providers:
    """Return the providers of a session: the config's, otherwise a GPU's if requested, and the CPU's last.

    ``names`` are all names in ONNX Runtime, ``available`` those in this build. Raises ConfigError for an unknown name,
    and for options of a provider that is not named or takes none.
    """
    requested = [_full_name(name, names, "providers") for name in config.providers]
    given = config.provider_options or {}
    options = {_full_name(name, names, "provider_options"): value for name, value in given.items()}
    missing: tuple[str, ...] = ()
    if not requested and wants_gpu(config):
        requested = [name for name in (_ON_GPU if config.device is None else (CUDA,)) if name in available][:1]
        if not requested:
            kind = "provider for a GPU" if config.device is None else "CUDA provider"
            missing = (
                f"{gpu_request(config)}, but this ONNX Runtime has no {kind}: running on the CPU ({_HOW[CUDA]})",
            )
    missing += tuple(_absent(name, available) for name in requested if name not in available)
    chosen = list(dict.fromkeys([*(name for name in requested if name in available), CPU]))
    _check_options(options, [*requested, CPU])
    for name in chosen:
        if name in _CUDA_DEVICES and device_index(config):
            options[name] = {"device_id": device_index(config), **options.get(name, {})}
    return Providers(tuple((name, _texts(options.get(name, {}))) for name in chosen), missing)


def provider_status() -> list[Availability]:
    """Return the availability of execution providers in this ONNX Runtime; [] without it."""
    try:
        import onnxruntime
    except (ImportError, OSError):
        return []
    available = onnxruntime.get_available_providers()
    version = onnxruntime.__version__
    names = dict.fromkeys((*sorted(available, key=lambda name: name != CPU), *_HOW))
    return [
        Availability(short_name(name), True, version)
        if name in available
        else Availability(short_name(name), False, reason="not in this build", how=_HOW[name])
        for name in names
    ]


def _full_name(given: object, names: Sequence[str], option: str) -> str:
    by_short = {short_name(name): name for name in names}
    name = by_short.get(short_name(given)) if isinstance(given, str) else None
    if name is None:
        raise ConfigError(f"InferenceConfig.{option}: " + unknown_name("provider", given, by_short))
    return name


def _absent(name: str, available: Iterable[str]) -> str:
    has = ", ".join(map(short_name, available))
    how = f" ({_HOW[name]})" if name in _HOW else ""
    return f"provider {short_name(name)!r} is not in this ONNX Runtime, which has {has}{how}"


def _check_options(options: Mapping[str, Any], requested: Sequence[str]) -> None:
    for name, value in options.items():
        if name not in requested:
            raise ConfigError(
                f"InferenceConfig.provider_options must be for {' '.join(map(short_name, requested))}, got "
                f"{short_name(name)!r}. Add it to InferenceConfig.providers."
            )
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"InferenceConfig.provider_options[{short_name(name)!r}] must be a mapping of options, got {value!r}."
            )
        if value and name in _TAKE_NONE:
            raise ConfigError(
                f"ONNX Runtime takes no options for {short_name(name)!r}, got {', '.join(map(str, value))} in "
                "InferenceConfig.provider_options. Leave them out."
            )


def _texts(options: Mapping[str, Any]) -> dict[str, str]:
    """Return options as the texts that ONNX Runtime takes."""
    return {str(key): str(int(value)) if isinstance(value, bool) else str(value) for key, value in options.items()}


def device_of(provider: str, options: Mapping[str, str]) -> str:
    """Return the device of a provider, as named in metrics."""
    if provider in _CUDA_DEVICES:
        return f"cuda:{options.get('device_id', '0')}"
    if provider == "OpenVINOExecutionProvider":
        return options.get("device_type", "CPU").partition(":")[0].partition(".")[0].lower()
    return "gpu" if provider in _ON_GPU else "cpu"


def count_nodes(subgraphs: Iterable[Any]) -> dict[str, int]:
    """Return the number of nodes by provider, from ONNX Runtime's record; most first."""
    nodes: dict[str, int] = {}
    for part in subgraphs:
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return dict(sorted(nodes.items(), key=lambda item: -item[1]))


def fallbacks(
    chosen: Providers, *, running: Sequence[str], nodes: Mapping[str, int], named: Sequence[str]
) -> list[str]:
    """Return notes on providers that are missing, did not start or took no node, and on nodes that fell to the CPU.

    ``running`` are the session's providers, ``named`` those in the config; ``nodes`` is empty if unknown.
    """
    notes = list(chosen.missing)
    others = [name for name in chosen.names if name != CPU]
    for name in others:
        if name not in running:
            notes.append(f"provider {short_name(name)!r} is in this ONNX Runtime, but could not start here")
        elif nodes and name not in nodes:
            notes.append(f"provider {short_name(name)!r} takes none of the model's {sum(nodes.values())} nodes")
    if others and nodes.get(CPU) and set(nodes) != {CPU} and short_name(CPU) not in map(short_name, named):
        notes.append(f"{nodes[CPU]} of {sum(nodes.values())} nodes run on the CPU, because others do not take them")
    return notes
