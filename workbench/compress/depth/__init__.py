"""Depth pruning: find residual blocks by tracing, rank them, and replace them by pass-throughs."""
