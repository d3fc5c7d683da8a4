"""How a study looks after its children: how long one may be silent, and where their time is noted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workbench.core.errors import StudyError
from workbench.core.given import given
from workbench.study.workers.dask_environment import dask_variables
from workbench.study.workers.phases import Phases

STALL_S = 1800.0
"""Seconds that a child may work without a sign of life, unless told; compiling a large model can take many minutes."""


@dataclass(frozen=True)
class WorkerPolicy:
    """What a study wants of its children: ``stall_s`` is how long one may work without a sign; None: for ever.

    ``without`` are the environment variables that they do not inherit.
    """

    stall_s: float | None = STALL_S
    phases: Phases = field(default_factory=Phases)
    without: tuple[str, ...] = field(default_factory=dask_variables)


def worker_policy(stall_timeout_s: Any) -> WorkerPolicy:
    """Return what a run wants of its children.

    Raises
    ------
    StudyError
        If the seconds are none.
    """
    if stall_timeout_s is not None and not (
        isinstance(stall_timeout_s, int | float) and not isinstance(stall_timeout_s, bool) and stall_timeout_s > 0
    ):
        raise StudyError(
            f"stall_timeout_s must be above 0 seconds, or None to wait for ever; got {given(stall_timeout_s)}."
        )
    return WorkerPolicy(stall_timeout_s)


def stalled(seconds: float, at: str) -> str:
    """Return why a child that was at something was killed."""
    return (
        f"The process was ended: it gave no sign for {seconds:g} s while it was at {at!r}. If that is work and no "
        "hang, allow for more with stall_timeout_s."
    )
