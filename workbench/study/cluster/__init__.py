"""A study on several machines: units of work go to the workers of a Dask cluster, rows come back to the study."""
