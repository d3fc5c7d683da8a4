"""Measurement: warm-up, interleaved blocks, comparisons with an interval, memory, energy. Needs numpy and psutil."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
