"""Structured pruning with torch-pruning."""
