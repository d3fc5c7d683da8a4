"""Compression: steps, recipes, and what comes out of them."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
