from __future__ import annotations

import json

import pytest
import torch
from artifact_models import Net, build, factorized, pruned
from torch import nn

from workbench.artifact.load import set_weights
from workbench.artifact.structure import StructureError, aliases, describe_structure, own_tensors, replay
from workbench.core.errors import ArtifactError

IMAGES = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def again(module: nn.Module, base=build) -> nn.Module:
    """Write the structure as text, make it again on a fresh module, and set the weights."""
    edits = json.loads(json.dumps(describe_structure(module, base())))
    made = replay(base(), edits).eval()
    set_weights(made, {name: tensor.detach().clone() for name, tensor in own_tensors(module)})
    return made


def changed(change) -> nn.Module:
    module = build()
    change(module)
    return module.eval()


def swap_activation(module):
    module.norm = nn.Sequential(module.norm, nn.GELU(approximate="tanh"), nn.Identity())


def fewer_heads(module):
    module.attention = nn.MultiheadAttention(16, 2, batch_first=True)
    module.heads = 2


def no_bias(module):
    module.head.bias = None


def untied(module):
    module.shared.weight = nn.Parameter(torch.randn(32, 16))


def frozen(module):
    module.stem.weight.requires_grad_(False)


@pytest.mark.parametrize(
    "module",
    [
        build(),
        pruned(),
        factorized(),
        *(changed(c) for c in (swap_activation, fewer_heads, no_bias, untied, frozen)),
    ],
    ids=["same", "pruned", "factorized", "activation", "heads", "no bias", "untied", "frozen"],
)
def test_a_changed_module_is_made_again(module):
    made = again(module)
    with torch.no_grad():
        torch.testing.assert_close(made(IMAGES), module(IMAGES))
    assert {n: p.shape for n, p in made.named_parameters()} == {n: p.shape for n, p in module.named_parameters()}
    assert {n: p.requires_grad for n, p in made.named_parameters()} == {
        n: p.requires_grad for n, p in module.named_parameters()
    }
    assert aliases(made) == aliases(module)


def test_the_pruned_module_really_is_smaller_and_says_so_in_its_layers():
    made = again(pruned())
    assert made.hidden.out_features == made.hidden.weight.shape[0] < 32


def test_what_was_made_again_can_be_trained():
    made = again(factorized()).train()
    made(IMAGES).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_shared_and_unstored_tensors_are_kept():
    module = build()
    module.shift = module.shift * 2
    made = again(module)
    assert made.hidden.weight is made.shared.weight
    assert torch.equal(made.shift, module.shift)


def test_a_type_that_is_not_allowed_is_named():
    with pytest.raises(StructureError, match="head is a Bilinear"):
        describe_structure(changed(lambda m: setattr(m, "head", nn.Bilinear(2, 2, 2))), build())
    with pytest.raises(StructureError, match="the module itself"):
        describe_structure(nn.Linear(2, 2), build())


def test_a_class_made_inside_build_is_the_same_class_each_time():
    def local_build() -> nn.Module:
        class Local(Net):
            pass

        torch.manual_seed(0)
        return Local().eval()

    module = local_build()
    with torch.no_grad():
        assert torch.equal(again(module, local_build)(IMAGES), module(IMAGES))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("modules", {"head": {"type": "Module", "args": {}}}),
        ("modules", {"nowhere.head": {"type": "Identity", "args": {}}}),
        ("attributes", {"": {"forward": 3}}),
        ("attributes", {"": {"_parameters": 3}}),
        ("removed", ["no_such"]),
        ("tensors", {"head": {"bias": {"kind": "__dict__", "shape": [1]}}}),
    ],
)
def test_edits_that_do_not_fit_or_are_not_allowed_are_refused(part, value):
    edits = {"modules": {}, "removed": [], "order": {}, "attributes": {}, "tensors": {}, "aliases": {}, part: value}
    with pytest.raises(ArtifactError, match="does not fit the module"):
        replay(build(), edits)


def test_weights_must_fit_one_to_one():
    weights = {name: tensor.detach().clone() for name, tensor in own_tensors(build())}
    with pytest.raises(ArtifactError, match=r"'extra' is in the artifact but not"):
        set_weights(build(), {**weights, "extra": torch.zeros(1)})
    with pytest.raises(ArtifactError, match=r"'head.bias' has shape \[9\]"):
        set_weights(build(), {**weights, "head.bias": torch.zeros(9)})
    del weights["head.bias"]
    with pytest.raises(ArtifactError, match=r"'head.bias' is in the module but not"):
        set_weights(build(), weights)
