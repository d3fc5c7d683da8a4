"""Execute trials: prepare, time in interleaved groups, score, within a time budget."""
