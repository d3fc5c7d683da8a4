"""Locate accuracy loss: per-layer SQNR, per-class metrics, activation taps."""
