"""Which blocks are found, and why others are not, in models written in many ways."""

from __future__ import annotations

import pytest
import torch
from compress_models import images, seeded
from depth_models import (
    Block,
    DictTower,
    DropPathTower,
    Encoder,
    ExtraTower,
    HiddenTower,
    Inverted,
    KeywordTower,
    NamedTower,
    NeXt,
    Plain,
    PreActivation,
    ReadTower,
    Residual,
    SameTower,
    TiedTower,
    Tower,
)
from torch import nn

from workbench.compress.depth.blocks import ResidualBlocks, find_blocks, replaced
from workbench.compress.depth.pass_through import PassThrough
from workbench.compress.model_ops import count_macs

IMAGES = images(4)[0]


def found(factory, blocked=None, excluded=frozenset()) -> tuple[nn.Module, ResidualBlocks]:
    module = seeded(factory)()
    return module, find_blocks(module, IMAGES, blocked or {}, excluded)


def names(findings: ResidualBlocks) -> list[str]:
    return [block.name for block in findings.blocks]


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (Residual, ["one.0", "one.1", "one.2", "two.1"]),
        (KeywordTower, ["blocks.0", "blocks.1", "blocks.2"]),
        (DictTower, ["blocks.0", "blocks.1", "blocks.2"]),
        (NamedTower, ["stage0_unit", "stage1_unit", "stage2_unit"]),
        (DropPathTower, ["blocks.0", "blocks.1", "blocks.2"]),
        (ReadTower, ["blocks.0", "blocks.1", "blocks.2"]),
        (Encoder, ["layers.0", "layers.1", "layers.2", "layers.3"]),
        (lambda: Encoder(norm_first=True), ["layers.0", "layers.1", "layers.2", "layers.3"]),
        (TiedTower, ["blocks.0", "blocks.1", "blocks.2"]),
        (lambda: Tower(Inverted(), Inverted()), ["blocks.0", "blocks.1"]),
        (lambda: Tower(PreActivation(), PreActivation()), ["blocks.0", "blocks.1"]),
        (lambda: Tower(NeXt(), NeXt()), ["blocks.0", "blocks.1"]),
        (lambda: Tower(NeXt(), Inverted(), Block()), ["blocks.0", "blocks.1", "blocks.2"]),
        (
            lambda: nn.Sequential(Tower(nn.Sequential(nn.Sequential(Block()), Block()))),
            ["0.blocks.0.0.0", "0.blocks.0.1"],
        ),
    ],
)
def test_blocks_are_found_and_the_model_runs_without_each(factory, expected):
    module, findings = found(factory)
    assert names(findings) == expected
    wanted = module(IMAGES)
    for block in findings.blocks:
        whole = count_macs(module, IMAGES)
        with replaced(module, {block.name: block.stand_in}):
            got = module(IMAGES)
            assert whole - count_macs(module, IMAGES) == block.macs > 0
        assert got.shape == wanted.shape
        assert not torch.equal(got, wanted)
    assert torch.equal(module(IMAGES), wanted)


def test_a_block_is_replaced_by_what_comes_in_and_by_nothing_else():
    """Against the same network with the block skipped by hand."""
    module, findings = found(Residual)
    stand_ins = {block.name: block.stand_in for block in findings.blocks if block.name in ("one.1", "two.1")}
    by_hand = module.head(module.two[0](module.one[2](module.one[0](module.stem(IMAGES)))).mean((2, 3)))
    with replaced(module, stand_ins):
        assert torch.equal(module(IMAGES), by_hand)


def test_keywords_and_dicts_pass_through():
    _, findings = found(DictTower)
    stand_in = findings.blocks[0].stand_in
    assert isinstance(stand_in, PassThrough)
    image, mask = IMAGES.expand(-1, 8, -1, -1), torch.ones(4, 1, 8, 8)
    assert stand_in({"image": image, "mask": mask}) == {"mask": mask, "image": image, "cache": None}
    _, findings = found(KeywordTower)
    assert findings.blocks[1].stand_in(scale=mask, image=image) is image


def test_settings_that_the_model_reads_are_kept_on_the_stand_in():
    _, findings = found(ReadTower)
    assert all(block.stand_in.kind == "full" for block in findings.blocks)


@pytest.mark.parametrize(
    ("factory", "name", "reason"),
    [
        (Residual, "two.0", "another shape"),
        (Residual, "head", "another shape"),
        (ExtraTower, "blocks.0", "output 1 has another shape"),
        (SameTower, "blocks.0", "called 3 times"),
        (HiddenTower, "blocks.1", "by its name"),
        (Plain, "features.3", "without an addition"),
    ],
)
def test_what_is_no_block_has_its_reason(factory, name, reason):
    _, findings = found(factory)
    assert name not in names(findings)
    assert reason in findings.refused[name]


def test_the_first_layer_of_a_transformer_encoder_stays_because_the_encoder_reads_it():
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.head = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(8, 4)

        def forward(self, image):
            return self.head(self.encoder(image[:, 0]).mean(1))

    _, findings = found(Stack)
    assert names(findings) == ["encoder.layers.1", "encoder.layers.2"]
    assert "the model fails without it (AttributeError" in findings.refused["encoder.layers.0"]


def test_one_block_under_two_names_stays():
    def build() -> nn.Module:
        tower = Tower(Block(), Block())
        tower.also = tower.blocks[0]
        return tower

    _, findings = found(build)
    assert names(findings) == ["blocks.1"]
    assert "several names" in findings.refused["blocks.0"]


def test_a_stage_is_taken_apart_and_layers_of_one_piece_are_not():
    _, findings = found(Encoder)
    assert {block.type for block in findings.blocks} == {"TransformerEncoderLayer"}
    bert = pytest.importorskip("transformers", reason="transformers is not installed: its BERT is what is tested")
    config = bert.BertConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, vocab_size=20, num_labels=4
    )
    model = bert.BertForSequenceClassification(config).eval()
    words = {"input_ids": torch.randint(0, 20, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    findings = find_blocks(model, words, {}, frozenset())
    assert names(findings) == [f"bert.encoder.layer.{number}" for number in range(3)]
    with torch.no_grad(), replaced(model, {block.name: block.stand_in for block in findings.blocks}):
        hidden = model.bert.embeddings(input_ids=words["input_ids"])
        wanted = model.classifier(model.bert.pooler(hidden))
        assert torch.equal(model(**words).logits, wanted)


def test_blocks_that_are_left_alone_stay_and_so_do_those_that_hold_an_excluded_layer():
    _, findings = found(Residual, {"one.0": "excluded by name"}, frozenset({"one.0", "two.1.conv2"}))
    assert names(findings) == ["one.1", "one.2"]
    assert findings.refused["one.0"] == "excluded by name"
    assert findings.refused["two.1"] == "two.1.conv2 within it is excluded by name"


def test_blocks_of_one_kind_are_known_as_such():
    _, findings = found(Residual)
    kinds = [block.kind for block in findings.blocks]
    assert kinds[0] == kinds[1] == kinds[2] != kinds[3]


@pytest.mark.parametrize("form", [(), "input", ("input",), ("input", True), ("constant", []), ("call", 0), ("dict", 3)])
def test_a_pass_through_refuses_what_is_no_form(form):
    with pytest.raises(ValueError, match=r"PassThrough\.outputs"):
        PassThrough(form)
