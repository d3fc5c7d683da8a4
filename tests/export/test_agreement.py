from __future__ import annotations

import numpy as np
import pytest

from workbench.export.agreement import compare_outputs

REFERENCE = np.linspace(-2, 2, 40, dtype=np.float32).reshape(4, 10)


def test_largest_difference_and_its_share_of_the_range():
    off = REFERENCE.copy()
    off[1, 3] += 0.001
    found = compare_outputs([REFERENCE], [off])
    assert found.max_abs_diff == pytest.approx(0.001, rel=1e-3)
    assert found.share == pytest.approx(0.0005, rel=1e-3)
    assert found.problem is None


def test_a_float_model_may_differ_by_a_thousandth_of_the_range():
    off = REFERENCE + 0.0021
    assert "allowed is 0.001" in compare_outputs([REFERENCE], [off]).problem
    assert compare_outputs([REFERENCE], [off], tolerance=0.01).problem is None


def test_a_quantized_model_is_judged_by_its_error_against_the_spread():
    noise = np.random.default_rng(0).standard_normal(REFERENCE.shape) * REFERENCE.std()
    assert compare_outputs([REFERENCE], [REFERENCE + 0.08 * noise], quantized=True).problem is None
    assert "root mean square" in compare_outputs([REFERENCE], [REFERENCE + 0.15 * noise], quantized=True).problem
    assert compare_outputs([REFERENCE], [REFERENCE + 0.08 * noise], quantized=True, tolerance=0.01).problem


@pytest.mark.parametrize("quantized", [True, False])
def test_nan_where_the_reference_is_finite_is_a_problem(quantized):
    bad = REFERENCE.copy()
    bad[0, 0] = np.nan
    assert "NaN" in compare_outputs([REFERENCE], [bad], quantized=quantized).problem
    assert "NaN" in compare_outputs([bad], [REFERENCE], quantized=quantized).problem
    assert compare_outputs([bad], [bad], quantized=quantized).problem is None


def test_shapes_and_counts_must_fit():
    assert "shape [10, 4]" in compare_outputs([REFERENCE], [REFERENCE.T]).problem
    assert "1 outputs instead of 2" in compare_outputs([REFERENCE, REFERENCE], [REFERENCE]).problem


def test_the_worst_output_counts_and_is_named():
    found = compare_outputs([REFERENCE, REFERENCE], [REFERENCE, REFERENCE + 1])
    assert found.problem.startswith("output 1:")
    assert found.max_abs_diff == pytest.approx(1)


def test_integers_and_constant_outputs():
    assert compare_outputs([np.array([1, 2])], [np.array([1, 2])]).problem is None
    assert compare_outputs([np.zeros(3)], [np.zeros(3)], quantized=True).problem is None
    assert compare_outputs([np.zeros(3)], [np.ones(3)]).problem
