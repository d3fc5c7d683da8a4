"""Predictions against what was measured, and the choice of the next share by hand."""

import pytest

from workbench.study.results.quality_limits import futile, hopeless, standard_error
from workbench.study.strategy.drop_model import next_share, prior, share_for, speedup_at

MODEL = prior("depth", point=0.01, samples=3370)


@pytest.mark.parametrize(("blocks", "drop"), [(8, 0.005), (10, 0.010), (12, 0.020)])
def test_the_prior_of_depth_is_what_a_resnet_56_lost(blocks, drop):
    assert MODEL.drop(blocks / 27) == pytest.approx(drop, rel=0.15)


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.3, 0.009, 0.014), (0.5, 0.03, 0.08)])
def test_the_prior_of_width_is_what_a_resnet_56_lost(ratio, low, high):
    assert low < prior("width", point=0.01, samples=3370).drop(ratio) < high


def test_share_is_the_inverse_of_drop():
    for drop in (0.001, 0.005, 0.02):
        assert MODEL.drop(MODEL.share(drop)) == pytest.approx(drop)
    assert MODEL.share(0.0) == MODEL.share(-1.0) == 0.0


def test_fewer_samples_lose_more():
    drops = [prior("depth", point=0.01, samples=n).drop(0.3) for n in (200, 1000, 3370, 30000)]
    assert drops == sorted(drops, reverse=True) and drops[2] == drops[3]


def test_an_observation_moves_the_prediction_most_of_the_way():
    seen = MODEL.observed(0.3, 0.010, floor=0.001)
    assert MODEL.drop(0.3) < seen.drop(0.3) < 0.010
    assert seen.drop(0.3) == pytest.approx(0.010**0.75 * MODEL.drop(0.3) ** 0.25)
    assert MODEL.observed(0.3, -0.5, floor=0.002).drop(0.3) > 0.002


@pytest.mark.parametrize(
    ("low", "high", "allowed", "blocks"),
    [
        (0, None, 0.005, 8),
        (0, None, 0.009, 9),
        (8, None, 0.009, 10),  # 9.7, to the nearest
        (9, None, 0.009, 10),  # a quarter beyond what is allowed is tried
        (10, None, 0.009, None),
        (8, 10, 0.02, 9),
        (9, 10, 0.02, None),
        (0, 9, 0.02, 8),
        (0, 1, 0.02, None),
    ],
)
def test_the_next_share_lies_between_what_held_and_what_missed(low, high, allowed, blocks):
    unit = 1 / 27
    found = next_share(MODEL, low=low * unit, high=None if high is None else high * unit, unit=unit, allowed=allowed)
    assert (None if found is None else round(found * 27)) == blocks


def test_speed_follows_the_time_that_was_saved_at_the_probed_share():
    assert speedup_at(8 / 27, probed=8 / 27, ratio=1.43) == pytest.approx(1.43)
    assert speedup_at(10 / 27, probed=8 / 27, ratio=1.43) == pytest.approx(1.69, rel=0.06)
    assert speedup_at(14 / 27, probed=8 / 27, ratio=1.43) == pytest.approx(2.13, rel=0.06)
    assert share_for(1.43, probed=0.3, ratio=1.43) == pytest.approx(0.3)
    assert share_for(1.43, probed=0.3, ratio=0.98) is None


def test_a_training_is_futile_only_far_from_the_limit_and_late():
    watch = {"limit": 0.01, "quality": 0.9, "samples": 374}
    assert not futile(0.5, 0.3, **watch)
    assert [futile(drop, 0.5, **watch) for drop in (0.08, 0.3, 0.6)] == [False, False, True]
    assert [futile(drop, 0.9, **watch) for drop in (0.01, 0.02, 0.06)] == [False, False, True]
    assert futile(0.06, 0.6, limit=0.001, quality=-3.0, samples=100)  # a metric that is no share


def test_the_standard_error_is_that_of_changed_answers():
    assert standard_error(0.01, 400) == pytest.approx(0.005)
    assert standard_error(0.0, 400) == pytest.approx(1 / 400)
    assert not hopeless(0.018, 0.01, quality=0.9, samples=400)
