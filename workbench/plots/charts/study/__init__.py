"""Charts of a study: trade-off, throughput, memory, waterfall, search, cluster."""
