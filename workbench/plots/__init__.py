"""Charts: tidy data apart from drawing. Take rows (dicts, a DataFrame or a Study) or events, return Figures."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
