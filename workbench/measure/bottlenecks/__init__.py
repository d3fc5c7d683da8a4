"""Explain profiles: bottleneck rules, and comparison of two profiles by layer."""
