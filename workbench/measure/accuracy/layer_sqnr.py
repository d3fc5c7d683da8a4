"""Signal-to-quantization-noise ratio (SQNR) of layer outputs between two variants on one engine."""

from __future__ import annotations

import math
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

# below this, a file with additional outputs does not compute the same as the timed file
_FAITHFUL_DB = 60.0


@dataclass(frozen=True)
class LayerSignal:
    """SQNR of one layer: energy of the reference outputs over that of the difference, in dB."""

    layer: str
    op: str
    sqnr_db: float


@dataclass(frozen=True)
class LayerSignals:
    """SQNR of the layers of two variants, unmatched layers with reasons, and caveats."""

    layers: tuple[LayerSignal, ...]
    unaligned: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def layer_signals(
    variants: tuple[Variant, Variant], data: Split, config: InferenceConfig, outputs: tuple[Tree, Tree]
) -> LayerSignals:
    """Return the SQNR of every layer of the second variant relative to the first.

    ``outputs`` are those of the timed files for at least the samples of ``data``. If the files with additional outputs
    differ from them, there is a note.
    """
    if not takes_onnx(config.backend):
        note = f"no layers: layer outputs require an engine that runs ONNX files, got {config.backend}"
        return LayerSignals((), (), (note,))
    sources = [source_from_variant(variant, onnx=True, batch=config.batch_size) for variant in variants]
    first, second = (
        layer_points(require_onnx(source, config.backend), weight_owners(variant.module))
        for source, variant in zip(sources, variants, strict=True)
    )
    pairs, lost = align(first, second)
    values = [pair.reference for pair in pairs], [pair.candidate for pair in pairs]
    opened = [tapped(source, names) for source, names in zip(sources, values, strict=True)]
    fixed = next((source.io.batch for source in opened if source.io.batch is not None), None)
    if fixed is not None and len(data) < fixed:
        label = opened[0].label
        raise ConfigError(f"debug_accuracy: samples must be at least {fixed}, the batch of {label}, got {len(data)}.")
    size = fixed or config.batch_size
    sessions = [load(config.backend, source, config)[0] for source in opened]
    try:
        return _compare(pairs, lost, list(zip(opened, sessions, strict=True)), data, size, outputs)
    finally:
        for session in sessions:
            session.close()


def sqnr_db(signal: float, noise: float) -> float:
    """Return the ratio of two energies in dB: inf without noise, -inf for noise that is not finite.

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
    outputs_read: tuple[list[Any], list[Any]] = ([], [])
    for inputs, _ in data.batches(size):
        flat = [np.ascontiguousarray(leaf) for leaf in leaves(to_numpy(inputs))]
        if arms[0][0].io.batch not in (None, len(flat[0])):
            break  # the rest does not fill a batch
        first, second = (dict(zip(s.io.output_names, session.run(flat)[0], strict=True)) for s, session in arms)
        for side, values in zip(outputs_read, (first, second), strict=True):
            side.append(next(iter(values.values())))
        for place, pair in enumerate(pairs):
            a, b = first[pair.reference].astype(np.float64), second[pair.candidate].astype(np.float64)
            if a.shape == b.shape:
                energies[place] += (a**2).sum(), ((a - b) ** 2).sum()
            else:
                lost[pair.name] = f"shapes differ: reference {list(a.shape[1:])}, variant {list(b.shape[1:])}"
    signals = [
        LayerSignal(pair.name, pair.op, sqnr_db(float(energy[0]), float(energy[1])))
        for pair, energy in zip(pairs, energies, strict=True)
        if pair.name not in lost
    ]
    return LayerSignals(tuple(signals), tuple(lost.items()), _unfaithful(outputs_read, outputs))


def _unfaithful(parts_of: tuple[list[Any], list[Any]], outputs: tuple[Tree, Tree]) -> tuple[str, ...]:
    """Return a note for each file whose outputs change with additional outputs, because engines fuse less."""
    notes = []
    for name, parts, timed in zip(("reference", "variant"), parts_of, outputs, strict=True):
        read = np.concatenate(parts).astype(np.float64)
        plain = leaves(to_numpy(timed))[0][: len(read)].astype(np.float64)
        ratio = sqnr_db(float((plain**2).sum()), float(((plain - read) ** 2).sum()))
        if ratio < _FAITHFUL_DB:
            notes.append(
                f"additional outputs change fusion and rounding: {name} outputs have {ratio:.0f} dB SQNR against the "
                "timed file"
            )
    return tuple(notes)
