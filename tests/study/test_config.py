"""The options of a run and of a search."""

from __future__ import annotations

import pytest

from workbench.core.errors import ConfigError
from workbench.study.config import RunConfig, SearchConfig, configured, primary_batch


def test_the_primary_batch_is_32_or_the_largest():
    assert [primary_batch(sizes) for sizes in ((1, 8, 32, 64), (1, 8), (64,))] == [32, 8, 64]
    assert RunConfig().primary_batch == 32


def test_options_win_over_the_config():
    config = RunConfig(threads=2, batch_sizes=[4])
    assert configured(RunConfig, config, {"threads": 1}) == RunConfig(threads=1, batch_sizes=(4,))
    assert configured(SearchConfig, None, {}) == SearchConfig()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_sizes": (0,)}, "batch_sizes must be different whole numbers"),
        ({"batch_sizes": ()}, "batch_sizes must be different whole numbers"),
        ({"batch_sizes": (8, 8)}, "batch_sizes must be different whole numbers"),
        ({"batch_sizes": (1.5,)}, "batch_sizes must be tuple of int"),
        ({"batch_sizes": 32}, "batch_sizes must be tuple of int"),
        ({"backends": ()}, "backends is empty"),
        ({"backends": "openvino"}, "Write backends"),
        ({"references": "torch-default"}, "Write references"),
        ({"threads": True}, "threads must be int or None"),
        ({"budget": 60}, "Did you mean 'budget_s'"),
        ({"stall_timeout_s": 0}, "stall_timeout_s must be above 0"),
    ],
)
def test_what_cannot_be_run_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        configured(RunConfig, None, options)


def test_a_config_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="config must be a RunConfig"):
        configured(RunConfig, SearchConfig(), {})
