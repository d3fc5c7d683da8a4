"""Studies: trials of a question, each in a process of its own, kept in a database, resumed, cancelled, answered."""

from workbench.core.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
