"""Memory layout and number format of training: chosen by time, kept for the process, and kept by a checkpoint."""

from __future__ import annotations

import pytest
import torch
from compress_models import TinyViT, images, seeded, small_net, small_task, task_of
from torch import nn
from torch.nn import functional as F

from workbench.compress import Distill, Prune, Quantize, Recipe, Recover
from workbench.compress.training import numerics
from workbench.compress.training.checkpoint import Checkpoint
from workbench.compress.training.loop import train
from workbench.compress.training.numerics import MIN_STEPS, Numerics, choose_numerics, default_numerics, fastest
from workbench.compress.training.plan import TrainingPlan
from workbench.core.allocator import allocator_state
from workbench.core.errors import Cancelled
from workbench.core.progress import ignore_progress
from workbench.tasks.split import Split

DEFAULT, PLAIN = Numerics(True, "bfloat16"), Numerics(False, "float32")


@pytest.fixture
def native(monkeypatch):
    """A CPU with bfloat16 instructions, and nothing chosen yet."""
    monkeypatch.setattr(numerics, "has_native_bfloat16", lambda: True)
    monkeypatch.setattr(numerics, "_chosen", {})


@pytest.fixture
def timings(monkeypatch):
    """Set what a step takes, by numerics; return the calls."""
    calls = []

    def plant(seconds):
        def timed(module, batch, numerics):
            def step():
                calls.append(numerics)
                if numerics not in seconds:
                    raise RuntimeError("not implemented for 'BFloat16'")
                return seconds[numerics]

            return step

        monkeypatch.setattr(numerics, "_timed", timed)
        return calls

    return plant


@pytest.mark.parametrize(
    ("seconds", "choice"),
    [
        ({DEFAULT: 1.0, PLAIN: 2.0}, DEFAULT),
        ({DEFAULT: 1.0, PLAIN: 0.95}, DEFAULT),  # too near to be told apart
        ({DEFAULT: 1.0, PLAIN: 0.7}, PLAIN),
        ({PLAIN: 1.0}, PLAIN),
        ({}, DEFAULT),
    ],
)
def test_another_choice_must_be_clearly_faster(seconds, choice):
    assert fastest(seconds, DEFAULT) == choice


def test_the_fastest_is_chosen_in_turns_and_kept(native, timings):
    calls = timings({DEFAULT: 1.0, Numerics(False, "bfloat16"): 0.9, Numerics(True, "float32"): 0.8, PLAIN: 0.5})
    module, x = small_net(), images()[0]
    assert choose_numerics(module, x, precision="auto", steps=MIN_STEPS) == PLAIN
    assert len(calls) == 12 and len(set(calls[:4])) == 4 and calls[:4] == calls[4:8]
    assert choose_numerics(small_net(), x, precision="auto", steps=500) == PLAIN
    assert len(calls) == 12
    assert choose_numerics(small_net(width=4), x, precision="auto", steps=500) == PLAIN
    assert len(calls) == 24


def test_short_trainings_and_a_single_candidate_take_the_default(native, timings):
    calls = timings({})
    x = images()[0]
    assert choose_numerics(small_net(), x, precision="auto", steps=MIN_STEPS - 1) == DEFAULT
    assert choose_numerics(small_net(), x, precision="auto", steps=500, max_seconds=4.0) == DEFAULT
    assert choose_numerics(nn.Linear(3, 2), torch.ones(4, 3), precision="float32", steps=500).precision == "float32"
    assert not calls


def test_a_format_without_a_kernel_is_left_out(native, timings):
    timings({Numerics(True, "float32"): 1.0, PLAIN: 3.0})
    assert choose_numerics(small_net(), images()[0], precision="auto", steps=500) == Numerics(True, "float32")


def test_a_precision_that_is_asked_for_stays(native, timings):
    calls = timings({Numerics(True, "float32"): 2.0, PLAIN: 1.0})
    assert choose_numerics(small_net(), images()[0], precision="float32", steps=500) == PLAIN
    assert {numerics.precision for numerics in calls} == {"float32"}


def test_real_timings_leave_module_and_random_numbers_alone(native):
    module, x = small_net(dropout=0.5).train(), images()[0]
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    chosen = choose_numerics(module, x, precision="float32", steps=500)
    assert chosen.precision == "float32"
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in module.parameters())


def run(plan, **options):
    module = seeded(small_net)()
    x, y = images(64)
    trained = train(
        module.train(), Split(x, y), lambda out, inputs, targets, _: F.cross_entropy(out, targets), plan,
        stage="train", progress=options.pop("progress", ignore_progress), seed=0, **options,
    )  # fmt: skip
    return module, trained


def test_the_choice_is_used_and_reported(monkeypatch):
    monkeypatch.setattr("workbench.compress.training.loop.choose_numerics", lambda *_, **__: PLAIN)
    events = []
    module, trained = run(TrainingPlan(2, 16, None, None, timed=True), progress=events.append)
    assert trained.numerics == "contiguous, float32"
    assert module[0].weight.is_contiguous()
    assert trained.samples_per_s > 0 and "samples/s (contiguous, float32)" in trained.pace[0]
    assert events[-1].values["samples_per_s"] == pytest.approx(trained.samples_per_s)
    assert run(TrainingPlan(1, 16, None, None))[1].numerics == str(default_numerics())


@pytest.mark.parametrize("choice", [DEFAULT, PLAIN], ids=str)
def test_layouts_and_formats_train_alike(monkeypatch, choice):
    monkeypatch.setattr("workbench.compress.training.loop.choose_numerics", lambda *_, **__: choice)
    first = run(TrainingPlan(2, 16, None, None, timed=True))[0]
    monkeypatch.undo()
    plain = run(TrainingPlan(2, 16, None, None, precision="float32"))[0]
    tolerance = 1e-5 if choice == PLAIN else 3e-2
    for a, b in zip(first.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_a_checkpoint_keeps_the_choice(tmp_path, monkeypatch):
    def chosen(numerics):
        monkeypatch.setattr("workbench.compress.training.loop.choose_numerics", lambda *_, **__: numerics)

    monkeypatch.setattr("workbench.compress.training.checkpoint.EVERY_S", 0.0)
    monkeypatch.setattr(Checkpoint, "due", lambda self, now, pause=0.0: now)
    plan = TrainingPlan(3, 16, None, None, timed=True, evaluate_every=0)
    chosen(PLAIN)
    whole, _ = run(plan)

    def stop(progress):
        if progress.values.get("step", 0) >= 6:
            raise Cancelled

    monkeypatch.setattr("workbench.compress.training.loop._REPORT_EVERY_S", 0.0)
    with pytest.raises(Cancelled):
        run(plan, progress=stop, checkpoint=Checkpoint(tmp_path / "a.pt"))
    chosen(DEFAULT)
    again, trained = run(plan, checkpoint=Checkpoint(tmp_path / "a.pt"))
    assert trained.numerics == str(PLAIN) and any("went on" in note for note in trained.notes)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(Distill(epochs=1, batch_size=16)),
        Recipe(Prune(0.5, round_to=1), Recover(epochs=1, batch_size=16)),
        Recipe(Quantize(qat_epochs=1, batch_size=16)),
    ],
    ids=lambda recipe: recipe.label,
)
def test_a_step_notes_its_samples_per_second(recipe):
    notes = recipe.apply(small_task()).reports[-1].notes
    assert sum("samples/s" in note for note in notes) == 1
    state = allocator_state()
    assert state.steady or state.library != "glibc"


def test_nothing_trained_has_no_speed():
    notes = (
        Recipe(Prune(0.5, round_to=1), Recover(epochs=0, batch_norm="reestimate")).apply(small_task()).reports[-1].notes
    )
    assert not any("samples/s" in note for note in notes)


MODELS = """
from torch import nn

def fresh():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
"""


def rate(recipe, task, stage):
    events = []
    recipe.apply(task, progress=events.append)
    (value,) = {e.values["learning_rate"] for e in events if e.stage == stage and e.values.get("step")}
    return value


def test_training_from_the_models_own_weights_starts_with_a_smaller_rate(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    options = {"epochs": 1, "batch_size": 16, "schedule": "constant", "evaluate_every": 0}
    prune, task = Prune(0.5, round_to=1), small_task()
    assert rate(Recipe(Distill(**options)), task, "distill") == pytest.approx(0.02)
    assert rate(Recipe(prune, Distill(**options)), task, "distill") == 0.05  # narrowed layers have more to learn
    assert rate(Recipe(prune, Recover(**options)), task, "recover") == 0.05
    assert rate(Recipe(Distill(student=f"{tmp_path}/models.py:fresh", **options)), task, "distill") == 0.05
    assert rate(Recipe(Distill(learning_rate=0.5, **options)), task, "distill") == 0.5
    tokens = task_of(seeded(TinyViT), *images())
    assert rate(Recipe(Distill(**options)), tokens, "distill") == 1e-3
