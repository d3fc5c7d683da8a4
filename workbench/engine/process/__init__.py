"""Process-wide state of an engine: threads, OpenMP workers, CPU pinning, TF32, denormals."""
