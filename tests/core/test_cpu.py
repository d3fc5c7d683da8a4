"""The topology out of made-up system folders, and where threads go on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from workbench.core import machine
from workbench.core.cpu import Topology, cpu_topology, cpus_to_pin, parse_cpu_list, read_topology


def tree(root: Path, cores: list[str], nodes: list[str], name: str = "core_cpus_list") -> Path:
    """Write what Linux shows of cores with these CPUs and of nodes with these."""
    for siblings in cores:
        for cpu in parse_cpu_list(siblings):
            folder = root / "cpu" / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            (folder / name).write_text(siblings + "\n")
    for number, cpus in enumerate(nodes):
        folder = root / "node" / f"node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    (root / "cpu" / "online").write_text("0\n")
    return root


def test_two_sockets_with_smt(tmp_path: Path) -> None:
    root = tree(tmp_path, ["0,4", "1,5", "2,6", "3,7"], ["0-1,4-5", "2-3,6-7"])
    found = read_topology(root, range(8))
    assert found == Topology(((0, 4), (1, 5), (2, 6), (3, 7)), ((0, 1, 4, 5), (2, 3, 6, 7)))
    assert found.smt == 2 and str(found) == "SMT 2 per core, 2 NUMA nodes"


@pytest.mark.parametrize(
    ("allowed", "cores", "nodes"),
    [
        ({0, 4}, ((0, 4),), ((0, 4),)),
        ({4, 5}, ((4,), (5,)), ((4, 5),)),
        ({1, 6, 2}, ((1,), (2, 6)), ((1,), (2, 6))),
    ],
)
def test_only_what_is_allowed_counts(tmp_path: Path, allowed: set, cores: tuple, nodes: tuple) -> None:
    root = tree(tmp_path, ["0,4", "1,5", "2,6", "3,7"], ["0-1,4-5", "2-3,6-7"])
    assert read_topology(root, allowed) == Topology(cores, nodes)


def test_older_kernels_and_systems_without_nodes(tmp_path: Path) -> None:
    root = tree(tmp_path, ["0", "1"], [], name="thread_siblings_list")
    found = read_topology(root, {0, 1})
    assert found == Topology(((0,), (1,)), ((0, 1),))
    assert str(found) == "no SMT, 1 NUMA node"


def test_nodes_without_allowed_cpus_and_above_nine(tmp_path: Path) -> None:
    root = tree(tmp_path, ["0", "1"], ["0", *[""] * 9, "1"])
    found = read_topology(root, {0, 1})
    assert found is not None and found.nodes == ((0,), (1,))


@pytest.mark.parametrize("text", ["", "nonsense", "7"])
def test_what_cannot_be_understood_is_not_guessed(tmp_path: Path, text: str) -> None:
    root = tree(tmp_path, ["0", "1"], ["0-1"])
    (root / "cpu" / "cpu1" / "topology" / "core_cpus_list").write_text(text)
    assert read_topology(root, {0, 1}) is None
    assert read_topology(root / "nothing", {0}) is None
    assert read_topology(root, set()) is None


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    shape = draw(st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=4), min_size=1, max_size=3))
    first = iter(range(100))
    nodes = [[[next(first)] for _ in node] for node in shape]
    for node, sizes in zip(nodes, shape, strict=True):
        for core, size in zip(node, sizes, strict=True):
            core += [next(first) for _ in range(size - 1)]
    cores = tuple(tuple(core) for node in nodes for core in node)
    return Topology(cores, tuple(tuple(sorted(cpu for core in node for cpu in core)) for node in nodes))


@given(topologies(), st.integers(1, 20))
def test_threads_take_whole_cores_first_and_stay_on_a_node_where_they_fit(topology: Topology, threads: int) -> None:
    cpus = cpus_to_pin(topology, threads)
    everything = [cpu for core in topology.cores for cpu in core]
    if threads > len(everything):
        assert cpus == ()
        return
    assert len(set(cpus)) == len(cpus) == threads and set(cpus) <= set(everything)
    used = [core for core in topology.cores if set(core) & set(cpus)]
    assert len(used) == min(threads, len(topology.cores))
    rooms = [sum(set(core) <= set(node) for core in topology.cores) for node in topology.nodes]
    if max(rooms) >= threads:
        assert any(set(cpus) <= set(node) for node in topology.nodes)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux: the affinity mask")
def test_this_machine() -> None:
    found = cpu_topology()
    if found is not None:
        assert {cpu for core in found.cores for cpu in core} == os.sched_getaffinity(0)
        assert {cpu for node in found.nodes for cpu in node} == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("topology", "allowed", "threads"),
    [
        (Topology(((0, 1),), ((0, 1),)), 2, 1),
        (Topology(((0, 4), (1, 5), (2, 6)), ((0, 1, 2, 4, 5, 6),)), 6, 3),
        (Topology(((0,), (1,), (2,)), ((0, 1, 2),)), 2, 2),
        (None, 3, 3),
    ],
)
def test_an_engine_gets_a_thread_for_each_physical_core_it_may_use(
    topology: Topology | None, allowed: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    here = dataclasses.replace(machine.this_machine(), cores_allowed=allowed, cores_physical=8)
    monkeypatch.setattr(machine, "this_machine", lambda: here)
    monkeypatch.setattr(machine, "cpu_topology", lambda: topology)
    assert machine.default_threads() == threads
