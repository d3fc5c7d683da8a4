"""What models that nobody here wrote do, each pattern in a few lines: found by the coverage matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compress_models import images, seeded, task_of
from torch import Tensor, nn
from torch.nn import functional as F

import workbench as wb
from workbench.compress.model_ops import replace_hf_conv1d
from workbench.compress.prune.verify_cut import dependency_graph
from workbench.core.errors import CoverageError, ExportError
from workbench.export.capture import export_program


class Shuffle(nn.Module):
    """Channels in two halves, one of them convolved, joined and shuffled: a unit of ShuffleNet, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.first, self.second = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 16, 3, padding=1)
        self.third, self.fourth = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(32, 4)

    @staticmethod
    def shuffled(x: Tensor) -> Tensor:
        """Return the channels of both halves in turn."""
        n, channels, height, width = x.size()
        x = x.view(n, 2, channels // 2, height, width)
        return torch.transpose(x, 1, 2).contiguous().view(n, channels, height, width)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x = self.shuffled(F.relu(self.stem(image)))
        kept, taken = torch.chunk(x, 2, dim=1)
        x = self.shuffled(torch.cat((kept, self.second(F.relu(self.first(taken)))), 1))
        kept, taken = torch.chunk(x, 2, dim=1)
        x = self.shuffled(torch.cat((kept, self.fourth(F.relu(self.third(taken)))), 1))
        return self.head(x.mean((2, 3)))


def test_layers_between_channel_shuffles_are_pruned_and_the_shuffled_ones_left_alone() -> None:
    task = task_of(seeded(Shuffle), *images())
    variant = wb.Recipe(wb.Prune(ratio=0.3)).apply(task)
    layers = {layer.name: layer for layer in variant.reports[0].layers}
    assert variant.module.first.weight.shape == (16, 16, 1, 1)
    assert variant.module.fourth.weight.shape == (16, 16, 3, 3)
    assert variant.module.stem.weight.shape[0] == 32
    assert not layers["stem"].touched
    assert variant.predict(task.examples(3)).shape == (3, 4)


class Rotary(nn.Module):
    """Attention as in Llama: the halves of each head's width change places, two heads share their keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.query, self.key, self.value = (nn.Linear(32, width, bias=False) for width in (32, 16, 16))
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 4)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    @staticmethod
    def turned(x: Tensor) -> Tensor:
        """Return ``x * cos + rotate_half(x) * sin``."""
        angle = torch.arange(x.shape[2])[:, None] * torch.ones(8)
        return x * angle.cos() + torch.cat((-x[..., 4:], x[..., :4]), dim=-1) * angle.sin()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4] for images [n, 1, 8, 8], whose rows are tokens."""
        x = self.embed(image[:, 0])
        n, tokens, _ = x.shape
        q, k, v = (layer(x).view(n, tokens, -1, 8).transpose(1, 2) for layer in (self.query, self.key, self.value))
        k, v = (t[:, :, None].expand(n, 2, 2, tokens, 8).reshape(n, 4, tokens, 8) for t in (self.turned(k), v))
        y = F.scaled_dot_product_attention(self.turned(q), k, v)
        x = x + self.out(y.transpose(1, 2).reshape(n, tokens, -1))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


@pytest.mark.timeout(90)
def test_rotary_positions_do_not_send_torch_pruning_round_in_circles() -> None:
    task = task_of(seeded(Rotary), *images())
    variant = wb.Recipe(wb.Prune(ratio=0.5)).apply(task)
    assert variant.module.up.weight.shape == (32, variant.module.embed.weight.shape[0])
    assert variant.predict(task.examples(3)).shape == (3, 4)


def test_a_concatenation_of_channels_is_still_followed() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 6, 1), nn.Conv2d(10, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat((self.a(x), self.b(x)), dim=-3))

    module = Fork()
    graph = dependency_graph(module, torch.zeros(2, 1, 4, 4))
    group = graph.get_pruning_group(module.b, graph.get_pruner_of_module(module.b).prune_out_channels, [0, 5])
    taken = {dep.target.module: channels for dep, channels in group}
    assert taken[module.c] == [4, 9]


class Lengths(nn.Module):
    """A Conv1d that takes the number of filled places too, and gives both back; ``len`` of a tensor in forward."""

    class Masked(nn.Conv1d):
        """A convolution with a second input and output, as pytorchcv's Jasper has them."""

        def forward(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            """Return the convolution of the filled places, and their number."""
            mask = torch.arange(x.shape[2]).expand(len(count), x.shape[2]) < count[:, None]
            return super().forward(x * mask[:, None]), count

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.Masked(3, 32, 3, padding=1), self.Masked(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [n, 4] and the number of filled places [n]."""
        x, count = self.first(x, count)
        x, count = self.second(F.relu(x), count)
        return self.head(x.mean(2)), count


def lengths_task() -> wb.Task:
    """Return a task with a tuple of two inputs and one of two outputs."""
    generator = torch.Generator().manual_seed(2)
    data = {
        role: (torch.randn(n, 3, 12, generator=generator), torch.randint(4, 13, (n,), generator=generator))
        for role, n in (("train", 40), ("evaluation", 8))
    }
    return wb.Task(
        name="lengths",
        build=seeded(Lengths),
        **{role: (inputs, inputs[1] % 4) for role, inputs in data.items()},
        metric=lambda out, y: float((out[0].argmax(1) == y).float().mean()),
        loss=lambda out, y: F.cross_entropy(out[0], y),
    )


def test_layers_that_give_several_values_are_pruned() -> None:
    variant = wb.Recipe(wb.Prune(ratio=0.3)).apply(lengths_task())
    assert variant.module.first.weight.shape == (24, 3, 3)
    assert [tuple(leaf.shape) for leaf in variant.predict(lengths_task().examples(3))] == [(3, 4), (3,)]


def test_layers_that_give_several_values_are_passed_over_when_others_are_factorized() -> None:
    variant = wb.Recipe(wb.Factorize(ratio=0.3, min_saving=0.0)).apply(lengths_task())
    layers = {layer.name: layer for layer in variant.reports[0].layers}
    assert [name for name, layer in layers.items() if layer.touched] == ["head"]
    assert "Masked" in layers["first"].reason and "Conv1d" in layers["first"].reason


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [wb.Recipe(), wb.Recipe(wb.Quantize())], ids=["float", "int8"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_length_of_a_tensor_keeps_the_batch_dynamic(recipe: wb.Recipe, backend: str) -> None:
    task = lengths_task()
    variant = recipe.apply(task)
    with wb.OptimizedInferenceEngine.from_variant(variant, backend=backend, batch_size=4, threads=1) as engine:
        assert engine.io.batch is None
        inputs = task.evaluation.take(range(3)).inputs
        logits, count = engine.predict(inputs).result
    assert torch.equal(count, inputs[1])
    wanted = variant.predict(inputs)[0]
    assert (logits - wanted).abs().max() <= (0.05 if variant.quantized else 1e-4) * wanted.abs().max()


def test_the_first_answer_is_given_where_following_the_bytecode_does_not_help() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.zeros(2, 1)

    shapes = ({0: torch.export.Dim("batch")},)
    with pytest.raises(Exception, match="specialized"):
        export_program(Fixed(), (torch.zeros(2, 3),), {}, shapes)
    assert export_program(Fixed(), (torch.zeros(2, 3),), {}, None) is not None


class Dense(nn.Module):
    """Every layer reads the concatenation of all before it, normalized before it convolves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 8 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 8 * i, 8, 3, padding=1, bias=False) for i in range(3))
        self.last, self.head = nn.BatchNorm2d(32), nn.Linear(32, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        x = self.stem(image)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat((x, conv(F.relu(norm(x)))), 1)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


def test_concatenations_that_only_floats_read_stay_in_float() -> None:
    variant = wb.Recipe(wb.Quantize()).apply(task_of(seeded(Dense), *images()))
    joins = [n for n in variant.module.graph.nodes if n.target is torch.ops.aten.cat.default]
    assert len(joins) == 3
    for node in joins:
        assert not any("quantize_per" in str(user.target) for user in node.users)
    assert variant.reports[0].touched == 5


def test_dtype_checks_that_a_cast_leaves_behind_do_not_stop_training() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(F.relu(self.body(image)).to(torch.float32).mean((2, 3)))

    task = task_of(seeded(Casting), *images())
    variant = wb.Recipe(wb.Quantize(qat_epochs=1.0, batch_size=16)).apply(task)
    assert not any("_assert_tensor_metadata" in str(node.target) for node in variant.module.graph.nodes)


class TestTransposedLinears:
    @staticmethod
    def layers() -> Any:
        """Return transformers' Conv1D."""
        return pytest.importorskip(
            "transformers.pytorch_utils", reason="transformers is not installed: its Conv1D is what is tested"
        ).Conv1D

    def test_they_become_linears_of_equal_outputs(self) -> None:
        conv1d = self.layers()
        module = nn.Sequential(conv1d(5, 3), nn.ReLU(), conv1d(2, 5))
        module[2].weight.requires_grad_(False)
        x = torch.randn(4, 3)
        before = module(x)
        after = replace_hf_conv1d(module)
        assert after is module
        assert [type(layer) for layer in module] == [nn.Linear, nn.ReLU, nn.Linear]
        assert (module[0].in_features, module[0].out_features) == (3, 5)
        assert torch.allclose(module(x), before, atol=1e-6)
        assert module[0].weight.requires_grad
        assert not module[2].weight.requires_grad

    def test_one_that_stands_in_two_places_stays_one_and_shared_weights_stay_as_they_are(self) -> None:
        conv1d = self.layers()
        same = conv1d(3, 3)
        twice = replace_hf_conv1d(nn.Sequential(same, same))
        assert isinstance(twice[0], nn.Linear)
        assert twice[0] is twice[1]
        first, second = conv1d(3, 3), conv1d(3, 3)
        second.weight = first.weight
        tied = replace_hf_conv1d(nn.Sequential(first, second))
        assert all(type(layer) is conv1d for layer in tied)

    def test_steps_work_on_them_and_the_artifact_comes_back(self, tmp_path: Any) -> None:
        conv1d = self.layers()

        def build() -> nn.Module:
            torch.manual_seed(0)
            return nn.Sequential(nn.Flatten(), conv1d(32, 64), nn.ReLU(), conv1d(4, 32)).eval()

        task = task_of(build, *images())
        variant = wb.Recipe(wb.Prune(ratio=0.5)).apply(task)
        assert variant.module[1].weight.shape == (16, 64)
        wb.artifact.save_variant(variant, tmp_path / "saved")
        loaded = wb.artifact.load_module(wb.artifact.open_artifact(tmp_path / "saved"), build)
        x = task.examples(3)
        with torch.no_grad():
            assert torch.equal(loaded(x), variant.predict(x))


class TestReasons:
    @staticmethod
    def of(module: nn.Module) -> str:
        """Return what Quantize says about a module that it cannot capture."""
        x = torch.randn(24, 1, 8, 8)
        task = wb.Task(
            name="refused",
            build=lambda: module,
            train=(x, x.flatten(1)[:, :4]),
            evaluation=(x[:4] + 1, x.flatten(1)[:4, :4]),
            metric=lambda out, y: -float(F.mse_loss(out, y)),
            loss=F.mse_loss,
        )
        with pytest.raises(ExportError) as found:
            wb.Recipe(wb.Quantize()).apply(task)
        return str(found.value)

    def test_a_branch_on_a_value_is_named_with_its_line(self) -> None:
        class Branching(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                y = super().forward(x.flatten(1))
                return y * 2 if float(y.abs().max()) > 1e9 else y

        reason, line = self.of(Branching(64, 4)), Branching.forward.__code__.co_firstlineno + 2
        assert reason.startswith("Branching cannot be captured")
        assert f"(test_foreign_models.py, line {line}: `return y * 2 if float(y.abs().max()) > 1e9 else y`)" in reason
        assert "torch.where" in reason and reason.endswith("leave Quantize out of the recipe.")

    def test_anything_else_is_one_line_with_a_way_out(self) -> None:
        class Odd(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                y = super().forward(x.flatten(1))
                return torch.from_numpy(y.detach().numpy() * 2) if torch.compiler.is_exporting() else y

        said = self.of(Odd(64, 4))
        assert "\n" not in said
        assert said.endswith("or leave Quantize out of the recipe.")


def test_a_layer_with_weight_norm_is_factorized_as_a_plain_one() -> None:
    def build() -> nn.Module:
        normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 32))
        return nn.Sequential(nn.Flatten(), normed, nn.ReLU(), nn.Linear(32, 4))

    variant = wb.Recipe(wb.Factorize(ratio=0.3)).apply(task_of(seeded(build), *images()))
    layers = {layer.name: layer for layer in variant.reports[0].layers}
    assert layers["1"].touched and layers["3"].type == "Linear"


class Overwritten(nn.Module):
    """Linears over tokens [n, 4, 16] with activations that write into what the Linears gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 32), nn.Linear(32, 24), nn.Linear(24, 4)
        self.activation = nn.LeakyReLU(0.02, inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [n, 4]."""
        tokens = self.activation(self.second(self.activation(self.first(image.reshape(-1, 4, 16)))))
        return self.head(tokens).mean(1)


def test_linears_whose_tokens_an_activation_overwrites_are_pruned() -> None:
    task = task_of(seeded(Overwritten), *images())
    variant = wb.Recipe(wb.Prune(ratio=0.3)).apply(task)
    assert variant.module.first.weight.shape == (24, 16)
    assert variant.module.second.weight.shape == (16, 24)
    assert variant.module.head.weight.shape == (4, 16)
    assert variant.module.activation.inplace
    kept = [layer for layer in variant.reports[0].layers if not layer.touched]
    assert not kept
    # the cut model is the whole one with the columns left out: the same numbers by hand
    x = task.examples(3).reshape(-1, 4, 16)
    hidden = F.leaky_relu(F.linear(x, variant.module.first.weight, variant.module.first.bias), 0.02)
    hidden = F.leaky_relu(F.linear(hidden, variant.module.second.weight, variant.module.second.bias), 0.02)
    whole = F.linear(hidden, variant.module.head.weight, variant.module.head.bias).mean(1)
    torch.testing.assert_close(torch.as_tensor(variant.predict(task.examples(3))), whole)
    rows = {tuple(row) for row in task.model().first.weight.tolist()}
    assert all(tuple(row) in rows for row in variant.module.first.weight.tolist())


def test_a_recurrent_layer_is_reported_as_one_that_is_not_cut() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lstm, self.head = nn.Embedding(9, 16), nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(words))[0][:, -1])

    generator = torch.Generator().manual_seed(4)
    words = torch.randint(0, 8, (40, 6), generator=generator)
    task = task_of(seeded(Recurrent), words, words[:, 0] % 4)
    with pytest.raises(
        CoverageError, match=r"lstm \(LSTM\): recurrent: .* not cut it \(.*student.*\); head \(Linear\): its"
    ):
        wb.Recipe(wb.Prune(ratio=0.3)).apply(task)
