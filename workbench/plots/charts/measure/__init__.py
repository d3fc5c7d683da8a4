"""Charts of measurements: calls, sweeps, tuning, precision, profiles, rooflines, LoadGen, monitor."""
