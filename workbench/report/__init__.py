"""Reports: a notebook run headless by papermill, as one HTML file that needs nothing from the network."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
