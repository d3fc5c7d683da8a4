"""What the doctor says of the processor."""

from __future__ import annotations

import dataclasses

import pytest

from workbench.core.cpu import cpu_topology
from workbench.report import doctor


@pytest.mark.parametrize(
    ("isa", "words"),
    [
        (("avx2", "avx512_bf16"), "avx512_bf16: native"),
        (("avx512_bf16", "amx_bf16"), "amx_bf16: native"),
        (("asimd", "bf16"), "bf16: native"),
        (("avx2", "avx512f"), "emulated here and slower than fp32"),
        ((), "not supported by the CPU"),
    ],
)
def test_it_says_by_what_bfloat16_is_computed(isa: tuple[str, ...], words: str) -> None:
    said = doctor.bf16_advice(dataclasses.replace(doctor.this_machine(), isa=isa))
    assert words in said
    assert len(said) <= 89  # after the name, within 100 columns


def test_cores_hardware_threads_and_memory_nodes_stand_in_one_short_line() -> None:
    found = doctor.system_info()
    lines = {line.partition(" ")[0]: line for line in doctor.system_info_text(found).splitlines()}
    assert str(cpu_topology() or "topology unknown") in lines["cores"]
    assert "NUMA" in lines["cores"] or cpu_topology() is None
    assert lines["bf16"].endswith(found["bf16"])
    assert len(lines["cores"]) <= 110
