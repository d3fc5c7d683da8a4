"""What Dask leaves in the environment of processes, which those of a study must not inherit."""

from __future__ import annotations

import os
import sys


def dask_variables() -> tuple[str, ...]:
    """Return the variables that a nanny of Dask sets: one thread for BLAS, and another way to give memory back.

    It sets them for its workers, and leaves them in its own process too: one that has made a ``LocalCluster``. Trials
    must run as they would without Dask, so that rows of both may be compared. Engines get their threads by name, and
    miss nothing where the user has set the same values.

    Examples
    --------
    >>> "distributed" in sys.modules or set_by_dask() == ()
    True
    """
    if "distributed" not in sys.modules:
        return ()
    import dask.config

    known = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return tuple(name for name, value in known.items() if os.environ.get(name) == str(value))
