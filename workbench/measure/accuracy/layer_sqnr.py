"""How far the values behind each layer stand above the difference between two variants, on one engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import ConfigError
from workbench.engine.backends import takes_onnx
from workbench.engine.backends.base import ModelSource, Session, require_onnx
from workbench.engine.config import InferenceConfig
from workbench.engine.loading.load import load
from workbench.engine.loading.source import source_from_variant
from workbench.measure.accuracy.activation_taps import Pair, align, layer_points, tapped, weight_owners
from workbench.tasks.trees import Tree, leaves, to_numpy

if TYPE_CHECKING:
    from workbench.compress.variant import Variant
    from workbench.tasks.split import Split

# Below this a tapped file computes something else than the file that is timed, beyond the last bits of a float.
_FAITHFUL_DB = 60.0


@dataclass(frozen=True)
class LayerSignal:
    """What arrives behind one layer: energy of the reference's values over that of the difference, in dB."""

    layer: str
    op: str
    sqnr_db: float


@dataclass(frozen=True)
class LayerSignals:
    """The layers of two variants: compared, or named with the reason why not; and what a reader must know."""

    layers: tuple[LayerSignal, ...]
    unaligned: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def layer_signals(
    variants: tuple[Variant, Variant], data: Split, config: InferenceConfig, outputs: tuple[Tree, Tree]
) -> LayerSignals:
    """Return the signal-to-noise ratio behind every layer of the second variant, held against the first.

    ``outputs`` are those of the files that are timed, for more samples than ``data`` holds or as many: a note says
    where they differ from those of the files that are looked into.

    Raises
    ------
    ExportError, EngineError
        If a variant has no ONNX file, or the engine cannot load one with more outputs.
    """
    if not takes_onnx(config.backend):
        words = f"no layers: {config.backend} runs a module, and values are read from ONNX files; name another engine"
        return LayerSignals((), (), (words,))
    sources = [source_from_variant(variant, onnx=True, batch=config.batch_size) for variant in variants]
    first, second = (
        layer_points(require_onnx(source, config.backend), weight_owners(variant.module))
        for source, variant in zip(sources, variants, strict=True)
    )
    pairs, lost = align(first, second)
    values = [pair.reference for pair in pairs], [pair.candidate for pair in pairs]
    opened = [tapped(source, names) for source, names in zip(sources, values, strict=True)]
    size = _batch(opened, data, config)
    sessions = [load(config.backend, source, config)[0] for source in opened]
    try:
        return _compare(pairs, lost, list(zip(opened, sessions, strict=True)), data, size, outputs)
    finally:
        for session in sessions:
            session.close()


def sqnr_db(signal: float, noise: float) -> float:
    """Return the ratio of two energies in dB; infinite without noise, and minus infinity where noise is no number.

    Examples
    --------
    >>> sqnr_db(100.0, 1.0)
    20.0
    """
    if noise <= 0:
        return math.inf
    if math.isfinite(signal) and not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _batch(sources: Sequence[ModelSource], data: Split, config: InferenceConfig) -> int:
    fixed = next((source.io.batch for source in sources if source.io.batch is not None), None)
    if fixed is not None and len(data) < fixed:
        raise ConfigError(
            f"debug_accuracy: {sources[0].label} was exported for a fixed batch of {fixed}, and there are only "
            f"{len(data)} samples to compare. Give samples={fixed} or more."
        )
    return fixed or config.batch_size


def _compare(
    pairs: list[Pair],
    lost: dict[str, str],
    arms: list[tuple[ModelSource, Session]],
    data: Split,
    size: int,
    outputs: tuple[Tree, Tree],
) -> LayerSignals:
    energies = np.zeros((len(pairs), 2))
    lost = dict(lost)
    looked: tuple[list[Any], list[Any]] = ([], [])
    for inputs, _ in data.batches(size):
        flat = [np.ascontiguousarray(leaf) for leaf in leaves(to_numpy(inputs))]
        if arms[0][0].io.batch not in (None, len(flat[0])):
            break  # the rest does not fill a batch
        first, second = (dict(zip(s.io.output_names, session.run(flat)[0], strict=True)) for s, session in arms)
        for side, values in zip(looked, (first, second), strict=True):
            side.append(next(iter(values.values())))
        for place, pair in enumerate(pairs):
            a, b = first[pair.reference].astype(np.float64), second[pair.candidate].astype(np.float64)
            if a.shape == b.shape:
                energies[place] += (a**2).sum(), ((a - b) ** 2).sum()
            else:
                lost[pair.name] = f"its values are {list(a.shape[1:])} in the reference and {list(b.shape[1:])} here"
    signals = [
        LayerSignal(pair.name, pair.op, sqnr_db(float(energy[0]), float(energy[1])))
        for pair, energy in zip(pairs, energies, strict=True)
        if pair.name not in lost
    ]
    return LayerSignals(tuple(signals), tuple(lost.items()), _unfaithful(looked, outputs))


def _unfaithful(looked: tuple[list[Any], list[Any]], outputs: tuple[Tree, Tree]) -> tuple[str, ...]:
    """Return a note for each file whose outputs change when it is looked into: engines fuse less then."""
    notes = []
    for word, parts, timed in zip(("reference", "variant"), looked, outputs, strict=True):
        found = np.concatenate(parts).astype(np.float64)
        plain = leaves(to_numpy(timed))[0][: len(found)].astype(np.float64)
        ratio = sqnr_db(float((plain**2).sum()), float(((plain - found) ** 2).sum()))
        if ratio < _FAITHFUL_DB:
            notes.append(
                "reading values inside changes what the engine fuses and so how it rounds: the outputs of the "
                f"{word} as it is timed stand {ratio:.0f} dB above the change"
            )
    return tuple(notes)
