"""The training loop: schedules, precision, early stop, and going on after a kill."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_models import small_task
from paths import SUPPORT
from torch import nn
from torch.nn import functional as F

from workbench.compress import Distill, Prune, Recipe, Recover
from workbench.compress.training import checkpoint, loop
from workbench.compress.training.checkpoint import Checkpoint
from workbench.compress.training.loop import train
from workbench.compress.training.plan import TrainingPlan, make_optimizer, rate_factor
from workbench.core.errors import Cancelled, ConfigError, WorkbenchError
from workbench.tasks.split import Split


def test_the_rate_warms_up_and_anneals():
    rates = [rate_factor(share) for share in np.linspace(0, 1, 201)]
    assert rates[0] < 0.2
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    peak = int(np.argmax(rates))
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_one_cycle_is_that_of_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    total = 1000
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=total, cycle_momentum=False)
    rates = []
    for _ in range(total):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    ours = [2.0 * rate_factor(step / (total - 1), "one_cycle") for step in range(total)]
    np.testing.assert_allclose(ours, rates, atol=1e-2)  # torch rounds the peak to a step


def test_a_constant_rate_stays():
    assert {rate_factor(share, "constant") for share in (0.0, 0.02, 0.5, 1.0)} == {1.0}


def test_the_optimizer_suits_the_model():
    plan = TrainingPlan(1, 8, None, None)
    assert isinstance(make_optimizer(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), plan), torch.optim.SGD)
    optimizer = make_optimizer(nn.LayerNorm(4), TrainingPlan(1, 8, 0.5, None, transformer=True))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def run(plan, loss=None, module=None, **options):
    module = nn.Linear(3, 2) if module is None else module
    data = Split(torch.randn(50, 3), torch.zeros(50, dtype=torch.int64))
    seen = []

    def counted(outputs, inputs, targets, indices):
        seen.append(indices)
        return (loss or F.cross_entropy)(outputs, targets)

    settings = {"stage": "x", "progress": lambda _: None, "seed": 0} | options
    return train(module, data, counted, plan, **settings), seen


def test_epochs_may_be_parts_and_every_sample_comes_once_per_epoch():
    done, seen = run(TrainingPlan(1.5, 10, None, None))
    assert (done.steps, done.epochs) == (8, 1.6)  # 7.5 steps, rounded to even
    assert sorted(torch.cat(seen[:5]).tolist()) == list(range(50))


def test_a_time_limit_cuts_the_training_and_says_so():
    done, _ = run(TrainingPlan(1e6, 10, None, 0.2))
    assert 0 < done.epochs < 1e6
    assert "max_seconds=0.2" in done.notes[0]
    assert run(TrainingPlan(1.0, 10, None, 1e4))[0].notes == ()


def test_augmented_inputs_reach_the_model_and_a_loss_that_explodes_is_told():
    shapes = []

    def augment(x, generator):
        shapes.append(tuple(x.shape))
        return x + torch.randn(x.shape, generator=generator)

    run(TrainingPlan(1, 10, None, None), augment=augment)
    assert shapes == [(10, 3)] * 5
    with pytest.raises(WorkbenchError, match=r"loss became nan.*learning_rate"):
        run(TrainingPlan(1, 10, None, None), loss=lambda out, y: out.sum() * math.nan)


@pytest.mark.parametrize(("precision", "kind"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_precision_is_that_of_the_products(precision, kind):
    made = []
    module = nn.Linear(3, 2)
    module.register_forward_hook(lambda layer, given, out: made.append(out.dtype))
    _, _ = run(TrainingPlan(1, 10, None, None, precision=precision), module=module)
    assert set(made) == {kind}
    assert module.weight.dtype == torch.float32


def test_the_rate_of_the_schedule_is_the_rate_of_the_step(monkeypatch):
    monkeypatch.setattr(loop, "_REPORT_EVERY_S", 0.0)
    events = []
    run(TrainingPlan(2, 10, 0.5, None, schedule="constant"), progress=events.append)
    assert {event.values["learning_rate"] for event in events} == {0.5}
    events.clear()
    run(TrainingPlan(2, 10, 0.5, None, schedule="one_cycle"), progress=events.append)
    rates = [event.values["learning_rate"] for event in events][:10]
    assert rates == [0.5 * rate_factor(step / 10, "one_cycle") for step in range(10)]


def scripted(values):
    """Return a module, its quality (as scripted), and the weights that it had when asked."""
    module, weights = nn.Linear(3, 2), []
    script = iter(values)

    def quality():
        weights.append({key: value.clone() for key, value in module.state_dict().items()})
        return next(script)

    return module, quality, weights


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_metric_is_told_while_training():
    events = []
    module, quality, _ = scripted([0.1, 0.2, 0.3, 0.4])
    run(TrainingPlan(3, 10, None, None), module=module, quality=quality, progress=events.append)
    told = {event.values["metric_epoch"]: event.values["metric"] for event in events}
    assert told == {0.0: 0.1, 1.0: 0.2, 2.0: 0.3, 3.0: 0.4}
    assert all(event.values.keys() >= {"loss", "learning_rate", "epoch"} for event in events[1:])
    assert [event.fraction for event in events] == sorted(event.fraction for event in events)


def test_an_early_stop_keeps_the_best_weights():
    module, quality, weights = scripted([0.5, 0.6, 0.7, 0.69, 0.7, 0.8])
    done, _ = run(TrainingPlan(9, 10, None, None, patience=2), module=module, quality=quality)
    assert done.epochs == 4.0  # 0.69 and the second 0.7 are no better than the 0.7 of epoch 2
    assert same(module.state_dict(), weights[2])
    assert not same(module.state_dict(), weights[4])
    assert "after 4.0 of 9 epochs" in done.notes[0]
    assert "epoch 2.0 were kept (validation 0.7000; the last had 0.7000)" in done.notes[0]
    assert not done.kept_start


def test_patience_keeps_the_best_of_a_training_that_ran_to_its_end():
    module, quality, weights = scripted([0.5, 0.9, 0.7])
    done, _ = run(TrainingPlan(2, 10, None, None, patience=5), module=module, quality=quality)
    assert done.epochs == 2.0
    assert same(module.state_dict(), weights[1])
    assert "stopped early" not in done.notes[0]


def test_without_patience_the_last_weights_stay():
    module, quality, weights = scripted([0.5, 0.9, 0.7])
    done, _ = run(TrainingPlan(2, 10, None, None), module=module, quality=quality)
    assert same(module.state_dict(), weights[2])
    assert done.notes == ()


def test_evaluations_come_as_often_as_asked():
    module, quality, weights = scripted(range(100))
    run(TrainingPlan(2, 10, None, None, evaluate_every=0.4), module=module, quality=quality)
    assert len(weights) == 1 + 5
    module, quality, weights = scripted(range(100))
    run(TrainingPlan(2, 10, None, None, evaluate_every=0.0), module=module, quality=quality)
    assert not weights


def test_a_training_that_is_no_better_leaves_the_weights_and_is_no_error():
    task = small_task()
    variant = Recipe(Distill(epochs=2, batch_size=16, learning_rate=1e-12, evaluate_every=0.5, patience=1)).apply(task)
    assert same(variant.module.state_dict(), task.model().state_dict())
    report = variant.reports[0]
    assert report.touched == 0
    assert "put back" in report.layers[0].reason
    assert any("that training began with were kept" in note for note in report.notes)


def test_options_that_contradict_are_refused():
    with pytest.raises(ConfigError, match="evaluate_every"):
        Recover(patience=2, evaluate_every=0)
    with pytest.raises(ConfigError, match="does nothing"):
        Recover(epochs=0)
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        Distill(schedule="cosin")


def test_parameters_beside_the_model_learn_too():
    beside = nn.Linear(2, 2)
    before = beside.weight.detach().clone()
    run(TrainingPlan(1, 10, None, None), loss=lambda out, y: F.cross_entropy(beside(out), y), extra=beside)
    assert not torch.equal(beside.weight, before)


KILLED = """
import os, signal, sys
sys.path[:0] = [{here!r}, {support!r}]
import test_training as own
from workbench.compress.training import checkpoint, loop

checkpoint.EVERY_S, checkpoint._SHARE, loop._REPORT_EVERY_S = 0.0, float("inf"), 0.0

def progress(event):
    if event.stage == {stage!r} and event.values.get("step", 0) == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

own.RECIPES[{name!r}].apply(own.small_task(), progress=progress, checkpoints={folder!r})
"""

RECIPES = {
    "distill": Recipe(Distill(epochs=3, batch_size=16, evaluate_every=0.5)),
    "features": Recipe(
        Prune(0.5, round_to=1), Distill(epochs=2, batch_size=16, features=("2",), attention=("5",), alpha_end=0.1)
    ),
    "recover": Recipe(
        Prune(0.5, round_to=1), Recover(epochs=3, batch_size=16, batch_norm="reestimate", schedule="one_cycle")
    ),
}


@pytest.fixture
def every_step(monkeypatch):
    """Tell and keep every step."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", math.inf)
    monkeypatch.setattr(loop, "_REPORT_EVERY_S", 0.0)


def cancel_at(stage, step):
    def progress(event):
        if event.stage == stage and event.values.get("step", 0) == step:
            raise Cancelled("enough")

    return progress


@pytest.mark.parametrize(("name", "stage", "step"), [("distill", "distill", 7), ("features", "distill", 5)])
def test_a_cancelled_training_goes_on_and_ends_the_same(tmp_path, every_step, name, stage, step):
    task, recipe = small_task(dropout=0.3), RECIPES[name]
    whole = recipe.apply(task)
    with pytest.raises(Cancelled):
        recipe.apply(task, progress=cancel_at(stage, step), checkpoints=tmp_path)
    kept = list(tmp_path.iterdir())
    assert [path.name.startswith(f"{recipe.recipe_id}-{task.fingerprint}-{stage}-") for path in kept] == [True]
    with pytest.raises(Cancelled):  # and once more, later on
        recipe.apply(task, progress=cancel_at(stage, step + 2), checkpoints=tmp_path)
    steps = []
    again = recipe.apply(task, progress=lambda e: steps.append(e.values.get("step")), checkpoints=tmp_path)
    assert not same(whole.module.state_dict(), task.model().state_dict())
    assert same(again.module.state_dict(), whole.module.state_dict())
    assert again.quality == whole.quality
    # the checkpoint is that of the step before the one that was cancelled, since it is told before it is kept
    assert min(filter(None, steps)) == step + 2
    assert any("went on from a checkpoint" in note for note in again.reports[-1].notes)
    assert again.reports[-1].epochs_done == whole.reports[-1].epochs_done
    assert not list(tmp_path.iterdir())


def test_an_early_stop_goes_on_counting_after_a_break(tmp_path, every_step):
    values, start = [0.5, 0.9, 0.8, 0.85, 0.7, 0.95], nn.Linear(3, 2).state_dict()
    x = torch.randn(50, 3)

    def go(script, stop_at=math.inf):
        module, asked = nn.Linear(3, 2), iter(script)
        module.load_state_dict(start)

        def progress(event):
            if event.values["step"] >= stop_at:
                raise Cancelled("enough")

        def loss(outputs, inputs, targets, indices):
            return F.cross_entropy(outputs, targets)

        data = Split(x, torch.zeros(50, dtype=torch.int64))
        keep = None if script is values and stop_at == math.inf else Checkpoint(tmp_path / "x.pt")
        plan = TrainingPlan(9, 10, None, None, patience=3)
        quality = {"quality": lambda: next(asked), "checkpoint": keep, "progress": progress, "seed": 0}
        return train(module, data, loss, plan, stage="x", **quality), module

    done, whole = go(values)
    with pytest.raises(Cancelled):
        go(values, stop_at=12)  # after the third value, which is the first without a better one
    again, module = go(values[3:])
    assert (again.epochs, done.epochs) == (4.0, 4.0)
    assert again.notes[1:] == done.notes
    assert same(module.state_dict(), whole.state_dict())


@pytest.mark.slow
def test_a_training_whose_process_was_killed_goes_on_and_ends_the_same(tmp_path):
    recipe, folder = RECIPES["recover"], tmp_path / "state"
    here = str(Path(__file__).parent)
    code = KILLED.format(here=here, support=str(SUPPORT), stage="recover", step=9, name="recover", folder=str(folder))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(list(folder.glob("*.pt"))) == 1
    again = recipe.apply(small_task(), checkpoints=folder)
    assert any("went on from a checkpoint at epoch" in note for note in again.reports[-1].notes)
    assert same(again.module.state_dict(), recipe.apply(small_task()).module.state_dict())
    assert not list(folder.glob("*.pt"))


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_used(tmp_path, every_step):
    path = tmp_path / "x.pt"
    start = nn.Linear(3, 2).state_dict()

    def fresh():
        module = nn.Linear(3, 2)
        module.load_state_dict(start)
        return module

    def stop(share):
        if share >= 0.5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run(TrainingPlan(2, 10, None, None), module=fresh(), checkpoint=Checkpoint(path), on_share=stop)
    assert path.is_file()
    done, seen = run(TrainingPlan(2, 10, 0.01, None), module=fresh(), checkpoint=Checkpoint(path))
    assert "other weights or options" in done.notes[0]
    assert len(seen) == 10
    path.write_bytes(b"not a checkpoint")
    done, seen = run(TrainingPlan(2, 10, None, None), module=fresh(), checkpoint=Checkpoint(path))
    assert "cannot be read" in done.notes[0]
    assert len(seen) == 10
    assert not path.exists()


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "x.pt"
    torch.save({"signature": "s", "module": Evil()}, path)
    state, note = Checkpoint(path).load("s")
    assert state is None
    assert "cannot be read" in note
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    events = []
    with pytest.raises(WorkbenchError, match="Cannot write to the folder"):
        Recipe(Distill()).apply(small_task(), checkpoints=tmp_path / "file" / "x", progress=events.append)
    assert not events


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not():
    task = small_task(dropout=0.3)
    step = Distill(epochs=1, batch_size=16, features=("2",))
    one, two = (Recipe(step, seed=3).apply(task).module.state_dict() for _ in range(2))
    assert same(one, two)
    assert not same(one, Recipe(step, seed=4).apply(task).module.state_dict())
