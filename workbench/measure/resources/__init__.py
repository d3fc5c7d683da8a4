"""Memory, allocations, energy, GPUs, and resource monitoring over time."""
