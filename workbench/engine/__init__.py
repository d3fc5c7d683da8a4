"""Run a model through one of the backends. Light: names are imported from their modules when first used."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
