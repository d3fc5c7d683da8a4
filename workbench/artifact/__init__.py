"""Artifacts: variants on disk. Names are imported on first use."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
