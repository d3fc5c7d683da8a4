"""Compare engines and calls: ratios with intervals, noise floor, machine conditions, latency cost."""
