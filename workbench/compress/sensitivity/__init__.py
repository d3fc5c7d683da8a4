"""Sensitivity: what each layer's pruning, rank or bits cost in quality and save, measured one layer at a time."""

from workbench.compress.sensitivity.run import sensitivity
from workbench.compress.sensitivity.table import Cell, Sensitivity

__all__ = ["Cell", "Sensitivity", "sensitivity"]
