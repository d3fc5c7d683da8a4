"""How ranks are chosen, against numpy, planted matrices and exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from workbench.compress.factorize.decomposition import RankChoice, RankTable
from workbench.compress.factorize.ranks import by_budget, by_energy, by_ratio, saves, vbmf_rank


def table(energies, params=10.0, macs=100.0, method="channel"):
    kept = np.cumsum(energies) / np.sum(energies)
    ranks = np.arange(1, len(kept) + 1)
    return RankTable(method, (len(kept),), ranks[:, None], kept, ranks * params, ranks * macs)


def whole(params, macs):
    return RankChoice("", (), (), 1.0, params, macs)


def test_the_least_rank_that_keeps_the_energy_is_taken():
    energies = np.square([3.0, 2.0, 1.0, 0.5])
    for energy in (0.5, 0.63, 0.9, 0.98, 1.0):
        (rank,) = by_energy([table(energies)], energy, "macs").ranks
        assert energies[:rank].sum() >= energy * energies.sum() - 1e-9
        assert rank == 1 or energies[: rank - 1].sum() < energy * energies.sum()


def test_of_several_ways_the_cheapest_that_keeps_as_much_is_taken():
    flat, steep = table([1, 1, 1, 1], macs=50), table([8, 1, 1], macs=90, method="spatial")
    assert by_energy([flat, steep], 0.8, "macs").method == "spatial"
    assert by_energy([flat, steep], 0.25, "macs").method == "channel"
    # as many parameters: the one that keeps more
    assert by_energy([flat, steep], 0.25, "params") == steep.at(0)
    # half of the first way's rank keeps half: one rank of the second way keeps more, and costs less
    assert by_ratio([flat, steep], 0.5, "macs") == steep.at(0)
    assert by_ratio([flat], 0.5, "macs") == flat.at(1)


@pytest.mark.parametrize("rows, columns, rank", [(40, 60, 3), (60, 40, 8), (100, 100, 20), (30, 300, 1)])
def test_vbmf_finds_a_planted_rank(rows, columns, rank):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        signal = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
        assert vbmf_rank(signal + 0.3 * rng.normal(size=signal.shape)) == rank


def test_vbmf_finds_nothing_in_noise_and_everything_without_it():
    rng = np.random.default_rng(0)
    assert vbmf_rank(rng.normal(size=(50, 80))) == 0
    assert vbmf_rank(np.zeros((4, 5))) == 0
    assert vbmf_rank(rng.normal(size=(30, 4)) @ rng.normal(size=(4, 50))) == 4
    assert vbmf_rank(np.ones((1, 7))) in (0, 1)


def test_vbmf_does_not_depend_on_the_scale_or_on_which_side_is_longer():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(30, 5)) @ rng.normal(size=(5, 70)) + 0.5 * rng.normal(size=(30, 70))
    assert vbmf_rank(matrix) == vbmf_rank(matrix.T) == vbmf_rank(1e-4 * matrix) == 5


spectra = st.lists(st.floats(0.01, 1), min_size=2, max_size=5).map(lambda v: sorted(v, reverse=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(spectra, min_size=1, max_size=3), st.floats(0.05, 0.9))
def test_a_budget_is_met_with_the_least_loss_for_what_it_saves(layers, share):
    tables = {str(i): [table(energies)] for i, energies in enumerate(layers)}
    wholes = {name: whole(10.0 * len(t.kept) + 1, 100.0 * len(t.kept) + 1) for name, (t,) in tables.items()}
    excess = share * sum(w.macs for w in wholes.values())
    chosen, missing = by_budget(tables, wholes, excess, "macs", least=1e-9)
    saved = sum(wholes[name].macs - choice.macs for name, choice in chosen.items())
    if missing > 0:
        assert saved + missing == pytest.approx(excess)
        assert all(choice.ranks == (1,) for choice in chosen.values()) and len(chosen) == len(tables)
        return
    lost = sum(1 - choice.kept for choice in chosen.values())
    # no other choice of ranks saves as much and loses less
    rows = [
        [(0.0, 0.0), *((wholes[name].macs - macs, 1 - kept) for macs, kept in zip(t.macs, t.kept, strict=True))]
        for name, (t,) in tables.items()
    ]
    for way in itertools.product(*rows):
        if sum(s for s, _ in way) >= saved - 1e-9:
            assert sum(loss for _, loss in way) >= lost - 1e-9


def test_what_must_be_saved_at_least_bounds_both_costs():
    chosen, missing = by_budget({"a": [table([5, 3, 1])]}, {"a": whole(30, 301)}, 1.0, "macs", least=0.3)
    assert chosen["a"].ranks == (2,) and missing == 0
    assert not saves(RankChoice("", (), (), 1, 31, 200), whole(30, 301), 0.1)
    assert saves(RankChoice("", (), (), 1, 20, 500), whole(30, 0), 0.1)
