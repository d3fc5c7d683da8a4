"""Worker policy: stall timeout, environment, and phase timing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

from workbench.study.config import STALL_TIMEOUT_S
from workbench.study.workers.phases import Phases


def dask_variables() -> tuple[str, ...]:
    """Return the environment variables that Dask's nanny has set, which the workers of a study must not inherit.

    It sets one thread for BLAS and a trim threshold for malloc, also in a process that made a ``LocalCluster``. Trials
    run as without Dask, so that their rows can be compared.

    Examples
    --------
    >>> "distributed" in sys.modules or dask_variables() == ()
    True
    """
    if "distributed" not in sys.modules:
        return ()
    import dask.config

    variables = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return tuple(name for name, value in variables.items() if os.environ.get(name) == str(value))


@dataclass(frozen=True)
class WorkerPolicy:
    """Stall timeout, phase timing and environment of the workers of a run.

    ``stall_s`` is the longest time without an event (None: no limit), ``unset`` the variables that they do not inherit.
    """

    stall_s: float | None = STALL_TIMEOUT_S
    phases: Phases = field(default_factory=Phases)
    unset: tuple[str, ...] = field(default_factory=dask_variables)
