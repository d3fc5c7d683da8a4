"""Interleaved timing: blocks of calls in random order, undisturbed pace, GPU events. Imports core only."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
