"""Unstructured sparsity."""
