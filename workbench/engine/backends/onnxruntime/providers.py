"""Which of ONNX Runtime's execution providers a session gets, and what became of them."""

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
# What use_gpu=True takes, the first that this build of ONNX Runtime has.
_ON_GPU = (CUDA, "MIGraphXExecutionProvider", "DmlExecutionProvider", "CoreMLExecutionProvider")
_HOW = {
    CUDA: "pip install onnxruntime-gpu on a machine with CUDA",
    "TensorrtExecutionProvider": "pip install onnxruntime-gpu tensorrt on a machine with CUDA",
    "OpenVINOExecutionProvider": "pip install onnxruntime-openvino",
    "DmlExecutionProvider": "pip install onnxruntime-directml on Windows",
    "CoreMLExecutionProvider": "pip install onnxruntime on macOS",
}
_TAKE_NONE = (CPU, "AzureExecutionProvider")
"""Providers whose options ONNX Runtime drops without a word (seen with 1.32), those of the CPU's C interface too."""
_CUDA_DEVICES = (CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


@dataclasses.dataclass(frozen=True)
class Providers:
    """The providers to ask for with their options, in order; ``missing`` says which this build does not have."""

    asked: tuple[tuple[str, dict[str, str]], ...]
    missing: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, the preferred one first."""
        return tuple(name for name, _ in self.asked)


def short_name(provider: str) -> str:
    """Return what a config calls a provider.

    Examples
    --------
    >>> short_name("CUDAExecutionProvider")
    'cuda'
    """
    short = provider.removesuffix(_ENDING).lower()
    return _ALIASES.get(short, short)


def choose_providers(config: InferenceConfig, *, known: Sequence[str], available: Sequence[str]) -> Providers:
    """Return the providers of a session: those of the config, else a GPU's where one is asked for, and the CPU's last.

    ``known`` are all that ONNX Runtime has names for, ``available`` those of this build.

    Raises
    ------
    ConfigError
        If the config names a provider that there is none of, or gives options to one that it does not name or
        that takes none.
    """
    wanted = [_full_name(name, known, "providers") for name in config.providers]
    given = config.provider_options or {}
    options = {_full_name(name, known, "provider_options"): value for name, value in given.items()}
    missing: tuple[str, ...] = ()
    if not wanted and wants_gpu(config):
        wanted = [name for name in (_ON_GPU if config.device is None else (CUDA,)) if name in available][:1]
        if not wanted:
            kind = "provider for a GPU" if config.device is None else "CUDA provider"
            missing = (
                f"{gpu_request(config)}, but this ONNX Runtime has no {kind}: running on the CPU ({_HOW[CUDA]})",
            )
    missing += tuple(_absent(name, available) for name in wanted if name not in available)
    found = [name for name in dict.fromkeys(wanted) if name in available]
    if CPU not in found:
        found.append(CPU)
    _check_options(options, [*wanted, CPU])
    for name in found:
        if name in _CUDA_DEVICES and device_index(config):
            options[name] = {"device_id": device_index(config), **options.get(name, {})}
    return Providers(tuple((name, _texts(options.get(name, {}))) for name in found), missing)


def provider_status() -> list[Availability]:
    """Return which execution providers this ONNX Runtime has, and how to get the ones that it lacks; [] without it."""
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


def _full_name(given: object, known: Sequence[str], option: str) -> str:
    by_short = {short_name(name): name for name in known}
    found = by_short.get(short_name(given)) if isinstance(given, str) else None
    if found is None:
        raise ConfigError(f"InferenceConfig.{option}: " + unknown_name("provider", given, by_short))
    return found


def _absent(name: str, available: Iterable[str]) -> str:
    has = ", ".join(map(short_name, available))
    how = f" ({_HOW[name]})" if name in _HOW else ""
    return f"provider {short_name(name)!r} is not in this ONNX Runtime, which has {has}{how}"


def _check_options(options: Mapping[str, Any], wanted: Sequence[str]) -> None:
    for name, value in options.items():
        if name not in wanted:
            raise ConfigError(
                f"InferenceConfig.provider_options has options for {short_name(name)!r}, which is not among the "
                f"providers: {' '.join(map(short_name, wanted))}. Add it to InferenceConfig.providers."
            )
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"InferenceConfig.provider_options[{short_name(name)!r}] must be a mapping of options, got {value!r}."
            )
        if value and name in _TAKE_NONE:
            raise ConfigError(
                f"InferenceConfig.provider_options has {', '.join(map(str, value))} for {short_name(name)!r}, but ONNX "
                "Runtime takes no options for that provider and would drop them. Leave them out."
            )


def _texts(options: Mapping[str, Any]) -> dict[str, str]:
    """Return options as ONNX Runtime takes them: all of them text."""
    return {str(key): str(int(value)) if isinstance(value, bool) else str(value) for key, value in options.items()}


def device_of(provider: str, options: Mapping[str, str]) -> str:
    """Return the device that a provider computes on, as metrics name it."""
    if provider in _CUDA_DEVICES:
        return f"cuda:{options.get('device_id', '0')}"
    if provider == "OpenVINOExecutionProvider":
        return options.get("device_type", "CPU").partition(":")[0].partition(".")[0].lower()
    return "gpu" if provider in _ON_GPU else "cpu"


def count_nodes(subgraphs: Iterable[Any]) -> dict[str, int]:
    """Return the nodes of each provider, from what ONNX Runtime recorded of its assignment; most first."""
    nodes: dict[str, int] = {}
    for part in subgraphs:
        nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
    return dict(sorted(nodes.items(), key=lambda item: -item[1]))


def fallbacks(
    chosen: Providers, *, running: Sequence[str], nodes: Mapping[str, int], named: Sequence[str]
) -> list[str]:
    """Return what did not come out as asked: providers that are missing, did not start or took no node, and nodes
    on the CPU where the config does not name it (``named`` are the providers that it names).

    ``running`` are the session's providers, ``nodes`` is empty where ONNX Runtime does not tell.
    """
    found = list(chosen.missing)
    others = [name for name in chosen.names if name != CPU]
    for name in others:
        if name not in running:
            found.append(f"provider {short_name(name)!r} is in this ONNX Runtime, but could not start here")
        elif nodes and name not in nodes:
            found.append(f"provider {short_name(name)!r} takes none of the model's {sum(nodes.values())} nodes")
    if others and nodes.get(CPU) and set(nodes) != {CPU} and short_name(CPU) not in map(short_name, named):
        found.append(f"{nodes[CPU]} of {sum(nodes.values())} nodes run on the CPU, as no other provider takes them")
    return found
