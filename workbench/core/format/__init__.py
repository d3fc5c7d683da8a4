"""Numbers, speedups and tables as text: one form for reports, charts, logs and terminals."""
