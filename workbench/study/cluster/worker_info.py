"""The workers of a cluster: which may time, their machines and versions, and which are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.core.machine import FINGERPRINT_LIBRARIES, Site

RESOURCE, GPU = "workbench", "gpu"
_ALIKE = ("inference-workbench", "torch", "torchao", "torch-pruning")
"""Packages that write artifacts or read blobs: every worker needs the same version."""


@dataclass(frozen=True)
class WorkerInfo:
    """The answer of a worker to a probe; ``backends`` maps a name to None if it runs there, else to the reason."""

    site: Site
    python: str
    host: str
    cores: frozenset[int]
    backends: dict[str, str | None]
    held_blobs: dict[str, str]


@dataclass
class ClusterWorker:
    """A worker that takes part; ``held_blobs`` are the digests of its blobs, by name."""

    address: str
    name: str
    info: WorkerInfo
    held_blobs: dict[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        """The worker's machine."""
        return self.info.site

    @property
    def words(self) -> str:
        """Name and host."""
        return f"worker {self.name} on {self.info.host}"


def able(workers: Mapping[str, Mapping[str, Any]], *, gpu: bool) -> list[str]:
    """Return the addresses of workers with the resource for timings, and with the one for GPUs if ``gpu``.

    Without ``gpu``, workers with a GPU are left to studies that need one, unless there are no others.

    Examples
    --------
    >>> able({"a": {"resources": {"workbench": 1}}, "b": {"resources": {}}}, gpu=False)
    ['a']
    """
    timing = [name for name, info in workers.items() if (info.get("resources") or {}).get(RESOURCE, 0) >= 1]
    tagged = [name for name in timing if workers[name]["resources"].get(GPU, 0) >= 1]
    if gpu:
        return tagged
    return [name for name in timing if name not in tagged] or timing


def needed(*, gpu: bool) -> dict[str, float]:
    """Return the resources that a running unit holds."""
    return {RESOURCE: 1, GPU: 1} if gpu else {RESOURCE: 1}


def start_words(address: str, *, gpu: bool) -> str:
    """Return the command that starts a worker for timings.

    Examples
    --------
    >>> start_words("tcp://head:8786", gpu=False)
    'dask worker tcp://head:8786 --nthreads 1 --resources "workbench=1"'
    """
    tags = ",".join(f"{name}={amount:g}" for name, amount in needed(gpu=gpu).items())
    return f'dask worker {address} --nthreads 1 --resources "{tags}"'


def differences(mine: Site, my_python: str, info: WorkerInfo) -> list[str]:
    """Return the packages of a worker that differ from those of this process, each with both versions.

    Of Python, major and minor version count, because pickled functions depend on them. Builds of torch for CUDA and
    for CPUs are the same version. Workers that differ in other libraries are another kind of machine.
    """
    here, there = dict(mine.libraries), dict(info.site.libraries)
    pairs: list[tuple[str, str | None, str | None]] = [("Python", _minor(my_python), _minor(info.python))]
    pairs += [(name, _public(here.get(name)), _public(there.get(name))) for name in _ALIKE]
    return [f"{name} {other} (here {own})" for name, own, other in pairs if own != other]


def by_site(workers: Iterable[ClusterWorker]) -> dict[str, list[ClusterWorker]]:
    """Return workers by the fingerprint of their machine, the largest group first."""
    groups: dict[str, list[ClusterWorker]] = {}
    for worker in workers:
        groups.setdefault(worker.site.fingerprint, []).append(worker)
    return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))


def describe_kinds(workers: Sequence[ClusterWorker]) -> list[str]:
    """Return a line for each kind of machine, and one on their differences if there are several."""
    kinds = by_site(workers)
    lines = [
        f"{len(group)} worker{'s' if len(group) > 1 else ''} on {group[0].site.words} ({fingerprint})"
        for fingerprint, group in kinds.items()
    ]
    if len(kinds) > 1:
        sites = [group[0].site for group in kinds.values()]
        apart = [n for n in FINGERPRINT_LIBRARIES if len({dict(site.libraries).get(n) for site in sites}) > 1]
        lines.append(
            f"{len(kinds)} kinds of machine, which differ in {', '.join(apart) or 'the machine'}: each runs the whole "
            "plan with its own baseline; rows of different kinds are never compared."
        )
    return lines


def shares_cores(worker: ClusterWorker, workers: Iterable[ClusterWorker]) -> bool:
    """Return True if another worker of the same host may use a core of this one."""
    own, others = worker.info, (other.info for other in workers if other is not worker)
    return any(other.host == own.host and other.cores & own.cores for other in others)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _public(version: str | None) -> str | None:
    return version if version is None else version.partition("+")[0]
