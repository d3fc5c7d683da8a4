"""Option dataclasses: bad values are refused in words, equal configs have equal ids."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Literal

import pytest

from workbench.core.config import Config, canonical_json, from_dict, option, short_id
from workbench.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner(Config):
    depth: int = option(1, "How deep.", minimum=1)


@dataclasses.dataclass(frozen=True)
class Sample(Config):
    ratio: float = option(0.5, "Share.", above=0, below=1)
    mode: Literal["a", "b"] = option("a", "Which.")
    names: tuple[str, ...] = option((), "Names.")
    limit: float | None = option(None, "Limit.", minimum=0, unit="s")
    inner: Inner | None = option(None, "Nested.")
    flag: bool = option(False, "On or off.")
    kind: str = option("l2", "Kind.", choices=("l1", "l2"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratio": 1.5}, "Sample.ratio must be above 0 and below 1, got 1.5"),
        ({"ratio": float("nan")}, "got nan"),
        ({"ratio": "half"}, "must be float, got 'half' \\(str\\)"),
        ({"ratio": True}, "must be float, got True"),
        ({"mode": "c"}, "'a' | 'b'"),
        ({"limit": -1}, "at least 0"),
        ({"names": (1,)}, "Sample.names"),
        ({"flag": 1}, "must be bool"),
        ({"kind": "l3"}, "Allowed: l1, l2"),
        ({"inner": {"depht": 2}}, "Did you mean 'depth'"),
        ({"rato": 0.5}, "Did you mean 'ratio'"),
    ],
)
def test_bad_values_are_refused_in_words(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_dict(Sample, change)


def test_an_option_that_is_not_there_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"Unknown option of Sample 'ration'\. Did you mean 'ratio'"):
        Sample(ration=0.5)
    assert copy.deepcopy(Sample(ratio=0.25)) == pickle.loads(pickle.dumps(Sample(ratio=0.25))) == Sample(0.25)


def test_json_round_trip_keeps_the_value_and_the_id() -> None:
    import json

    config = Sample(ratio=0.25, names=["x", "y"], limit=3, inner=Inner(depth=2))
    again = from_dict(Sample, json.loads(canonical_json(config)))
    assert again == config
    assert again.names == ("x", "y")
    assert short_id(again) == short_id(config) != short_id(config.replace(ratio=0.3))


def test_replace_checks_too() -> None:
    with pytest.raises(ConfigError):
        Sample().replace(ratio=0)
