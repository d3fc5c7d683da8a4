"""Choose backend and settings by interleaved timing: ``backend="auto"`` and ``engine.tune``."""
