"""The workers of a cluster as a study sees them: which may time, what each of them is, and which are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.core.machine import FINGERPRINT_LIBRARIES, Site

RESOURCE, GPU = "workbench", "gpu"
_ALIKE = ("inference-workbench", "torch", "torchao", "torch-pruning")
"""Packages that make artefacts, or read what is sent: the same version everywhere."""


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself; ``backends`` maps a name to None where it runs there, else to the reason."""

    site: Site
    python: str
    host: str
    cores: frozenset[int]
    backends: dict[str, str | None]
    held_blobs: dict[str, str]


@dataclass
class ClusterWorker:
    """A worker that takes part; ``held_blobs`` are the digests of parcels that lie there, by name."""

    address: str
    name: str
    answer: WorkerInfo
    held_blobs: dict[str, str] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        """What it is."""
        return self.answer.site

    @property
    def words(self) -> str:
        """The worker in words."""
        return f"worker {self.name} on {self.answer.host}"


def able(workers: Mapping[str, Mapping[str, Any]], *, gpu: bool) -> list[str]:
    """Return the addresses of workers that have the resource for timings, and that of GPUs where asked.

    Without ``gpu`` those tagged with a GPU are left to studies that ask for one, unless there are no others.

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
    """Return the resources that a unit holds while it runs."""
    return {RESOURCE: 1, GPU: 1} if gpu else {RESOURCE: 1}


def start_words(address: str, *, gpu: bool) -> str:
    """Return the command that starts a worker which may time.

    Examples
    --------
    >>> start_words("tcp://head:8786", gpu=False)
    'dask worker tcp://head:8786 --nthreads 1 --resources "workbench=1"'
    """
    tags = ",".join(f"{name}={amount:g}" for name, amount in needed(gpu=gpu).items())
    return f'dask worker {address} --nthreads 1 --resources "{tags}"'


def differences(mine: Site, my_python: str, answer: WorkerInfo) -> list[str]:
    """Return what of a worker's versions does not fit, each with both versions.

    Python counts with two numbers, which pickled functions depend on; a torch for CUDA and one for CPUs are the same
    version. Other libraries may differ: such workers are another kind of machine.
    """
    here, there = dict(mine.libraries), dict(answer.site.libraries)
    pairs: list[tuple[str, str | None, str | None]] = [("Python", _minor(my_python), _minor(answer.python))]
    pairs += [(name, _public(here.get(name)), _public(there.get(name))) for name in _ALIKE]
    return [f"{name} {other} (here {own})" for name, own, other in pairs if own != other]


def by_site(nodes: Iterable[ClusterWorker]) -> dict[str, list[ClusterWorker]]:
    """Return nodes by the fingerprint of their machine, the largest group first."""
    found: dict[str, list[ClusterWorker]] = {}
    for node in nodes:
        found.setdefault(node.site.fingerprint, []).append(node)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def kinds_words(nodes: Sequence[ClusterWorker]) -> list[str]:
    """Return a line for each kind of machine; where there are several, what that means and in what they differ."""
    kinds = by_site(nodes)
    lines = [
        f"{len(group)} worker{'s' if len(group) > 1 else ''} on {group[0].site.words} ({fingerprint})"
        for fingerprint, group in kinds.items()
    ]
    if len(kinds) > 1:
        sites = [group[0].site for group in kinds.values()]
        apart = [n for n in FINGERPRINT_LIBRARIES if len({dict(site.libraries).get(n) for site in sites}) > 1]
        what = f"in {', '.join(apart)}" if apart else "in the machine"
        lines.append(
            f"{len(kinds)} kinds of machine, which differ {what}: each does the whole plan with a baseline of its own, "
            "and figures of two kinds are never compared."
        )
    return lines


def shares_cores(node: ClusterWorker, nodes: Iterable[ClusterWorker]) -> bool:
    """Say whether another worker of the same host may use a core of this one."""
    others = (n.answer for n in nodes if n is not node and n.answer.host == node.answer.host)
    return any(other.cores & node.answer.cores for other in others)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _public(version: str | None) -> str | None:
    return version if version is None else version.partition("+")[0]
