"""Bind a caller's inputs and output buffers to a model's flat arrays."""
