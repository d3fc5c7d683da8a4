"""Tasks: what a model must do, with which data, and how well it does it."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
