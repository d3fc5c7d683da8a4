"""The compression benchmark's judgement, on rows of known speed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.compress import Model, Row, answer, table


def row(name: str, drop: float, ms: float) -> Row:
    blocks = [np.full(5, ms) + i / 1000 for i in range(6)]
    speedup = {32: (40 / ms, 39 / ms, 41 / ms)}
    model = Model(name, 100.0, 1000, 10**6)
    return Row(model, "openvino", 0.88 - drop, drop, drop - 0.01, drop + 0.01, {32: ms, 1: ms / 30}, speedup, blocks)


ROWS = [row("float", 0.0, 40.0), row("NNCF int8", 0.001, 8.0), row("torch-pruning 0.5", 0.015, 6.0)]


def test_the_fastest_of_ours_meets_the_fastest_peer_within_the_same_limit():
    words, won = answer([*ROWS, row("ours: a", 0.008, 5.0), row("ours: b", 0.03, 2.0)], 1.0)
    assert won
    assert words.startswith("Within 1 point: ours: a on openvino is 1.60x")
    assert "NNCF int8 on openvino" in words and "8.00x as fast as the float model" in words


@pytest.mark.parametrize(("points", "peer"), [(1.0, "NNCF int8"), (2.0, "torch-pruning 0.5")])
def test_less_than_a_quarter_faster_is_no_win(points, peer):
    words, won = answer([*ROWS, row("ours: a", 0.008, 6.5)], points)
    assert not won and peer in words


def test_a_chain_outside_the_limit_is_not_taken():
    assert answer([*ROWS, row("ours: a", 0.012, 4.0)], 1.0) == ("Within 1 point: none of our chains is left.", False)


def test_the_table_has_every_row_with_its_figures():
    lines = table(ROWS).splitlines()
    assert len(lines) == 5
    assert "| NNCF int8 | openvino | 87.90% | 0.10 (-0.90 to 1.10) | 1.0 | 1 | 100 | 8.00 | 0.267 | 5.00" in lines[3]
