"""Forms made from option metadata: right control, words, and faults said beside the option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ipywidgets as widgets
import pytest

from workbench.compress.steps import STEP_TYPES, Prune, Quantize
from workbench.core.config import Config, option
from workbench.core.errors import ConfigError
from workbench.engine.config import InferenceConfig, QuantizationConfig
from workbench.widgets.fields import parse_text
from workbench.widgets.form import Form


@dataclass(frozen=True)
class Sample(Config):
    flag: bool = option(True, "a flag")
    count: int = option(3, "how many", minimum=1)
    share: float = option(0.5, "a share", minimum=0.0, maximum=1.0)
    length: float | None = option(None, "how long", above=0.0, unit="s")
    kind: str = option("a", "which kind", choices=("a", "b"))
    word: str = option("x", "any word", advanced=True)
    mode: Literal["fast", "slow"] = option("fast", "which mode")
    names: tuple[str, ...] = option((), "some names")
    sizes: tuple[int, ...] = option((1, 8), "some sizes")
    auto: bool | str = option("auto", "a choice of three", choices=("auto", True, False))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count > 10 and not self.flag:
            raise ConfigError("Sample: more than 10 needs the flag.")


CONTROLS = {
    "flag": widgets.Checkbox,
    "count": widgets.IntText,
    "share": widgets.FloatText,
    "length": widgets.Text,
    "kind": widgets.Dropdown,
    "word": widgets.Text,
    "mode": widgets.Dropdown,
    "names": widgets.Text,
    "sizes": widgets.Text,
    "auto": widgets.Dropdown,
}


@pytest.mark.parametrize(("name", "control"), CONTROLS.items())
def test_each_type_gets_its_control(name: str, control: type) -> None:
    assert type(Form(Sample).control(name)) is control


@pytest.mark.parametrize("config", [Sample(), *(kind() for kind in STEP_TYPES.values()), InferenceConfig()])
def test_a_fresh_form_gives_the_config_it_shows(config: Config) -> None:
    form = Form(config)
    assert form.value == config
    assert form.error is None


def test_edits_arrive_in_the_config() -> None:
    form = Form(Sample)
    for name, value in {
        "flag": False,
        "count": 7,
        "share": 1,
        "length": " 2.5 ",
        "kind": "b",
        "word": "hello",
        "mode": "slow",
        "names": "stem, head ,",
        "sizes": "1,16",
        "auto": False,
    }.items():
        form.control(name).value = value
    assert form.value == Sample(
        flag=False,
        count=7,
        share=1.0,
        length=2.5,
        kind="b",
        word="hello",
        mode="slow",
        names=("stem", "head"),
        sizes=(1, 16),
        auto=False,
    )


def test_label_has_the_unit_and_the_tooltip_says_help_range_and_default() -> None:
    form = Form(Sample)
    assert form.control("length").description == "length (s)"
    assert form.control("share").tooltip == "A share. At least 0; at most 1. Default 0.5."
    assert form.control("names").tooltip == "Some names. Default none."


def test_a_value_out_of_range_is_said_beside_its_option_and_taken_back() -> None:
    changes = []
    form = Form(Prune, on_change=lambda: changes.append(form.error))
    form.control("ratio").value = 1.5
    assert form.error == "Prune.ratio must be above 0 and below 1, got 1.5."
    shown = [box.value for box in _faults(form.view)]
    assert shown == ["Prune.ratio must be above 0 and below 1, got 1.5."]
    with pytest.raises(ConfigError, match="below 1"):
        _ = form.value
    form.control("ratio").value = 0.3
    assert form.error is None
    assert _faults(form.view) == []
    assert changes == ["Prune.ratio must be above 0 and below 1, got 1.5.", None]


def test_text_that_is_no_number_is_said_not_raised() -> None:
    form = Form(Sample)
    form.control("length").value = "soon"
    form.control("sizes").value = "1, many"
    assert form.error == "Sample.length must be a number or empty, got 'soon'."
    assert len(_faults(form.view)) == 2


def test_a_fault_of_the_whole_stands_below_the_form() -> None:
    form = Form(Sample(count=11))
    form.control("flag").value = False
    assert form.error == "Sample: more than 10 needs the flag."
    assert _faults(form.view) == [form.view.children[-1]]


def test_advanced_options_are_folded_away() -> None:
    form = Form(Sample)
    fold = next(child for child in form.view.children if isinstance(child, widgets.Accordion))
    assert fold.selected_index is None
    assert form.control("word") in list(_walk(fold))
    assert form.control("count") not in list(_walk(fold))


def test_hidden_options_keep_their_value() -> None:
    form = Form(Quantize(allow_untouched=True), hide=("allow_untouched",))
    assert form.value.allow_untouched
    with pytest.raises(KeyError):
        form.control("allow_untouched")


def test_set_shows_another_config_without_calling_back() -> None:
    changes: list[None] = []
    form = Form(Sample, on_change=lambda: changes.append(None))
    other = Sample(length=4.0, names=("a", "b"), auto=True, count=2)
    form.set(other)
    assert form.value == other
    assert changes == []


def test_a_config_inside_a_config_can_be_switched_on() -> None:
    form = Form(InferenceConfig)
    assert form.value.quantization is None
    form.control("quantization").children[0].value = True
    assert form.value.quantization == QuantizationConfig()


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("none", float | None, None),
        ("not set", float | None, None),
        ("", int | None, None),
        ("4", int | None, 4),
        ("a,b", tuple[str, ...], ("a", "b")),
    ],
)
def test_text_is_read_by_type(text: str, hint: object, value: object) -> None:
    assert parse_text(text, hint, "X.y") == value


def _walk(widget: widgets.Widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _walk(child)


def _faults(view: widgets.Widget) -> list[widgets.HTML]:
    return [w for w in _walk(view) if "wb-fault" in getattr(w, "_dom_classes", ()) and w.layout.display != "none"]
