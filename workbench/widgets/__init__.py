"""The panel and its forms: a view over tasks, recipes and studies. Importing this room loads no ipywidgets."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
