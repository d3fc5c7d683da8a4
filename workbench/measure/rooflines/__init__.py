"""Rooflines: operation counts, peak throughput, arithmetic intensity."""
