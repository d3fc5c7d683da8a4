"""Process-wide state: torch threads, OpenMP workers, CPU pinning, TF32, denormals."""
