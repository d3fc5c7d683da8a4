"""Layer-wise sensitivity: accuracy cost and savings of pruning, low rank or low bits, one layer at a time."""

from workbench.compress.sensitivity.sweep import sensitivity
from workbench.compress.sensitivity.table import Cell, Sensitivity

__all__ = ["Cell", "Sensitivity", "sensitivity"]
