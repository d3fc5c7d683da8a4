"""Train the networks of the built-in tasks from scratch, and check that the digits are hard enough.

    python data/train_digits.py --model resnet     # digits_resnet.safetensors
    python data/train_digits.py --model vit        # digits_vit.safetensors, with the former as a teacher
    python data/train_digits.py --checks           # quality drop of pruning and of a smaller network

Training uses the training split only; the evaluation split is used once, at the end.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
import torch_pruning
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from workbench.core.files import sha256_file
from workbench.tasks import Task, digits, digits_vit
from workbench.tasks.models import DigitsResNet, DigitsViT

FILES = {"resnet": "digits_resnet.safetensors", "vit": "digits_vit.safetensors"}
EPOCHS = {"resnet": 14, "vit": 40}
BATCH = {"resnet": 128, "vit": 64}
RATE = {"resnet": 4e-3, "vit": 1.5e-3}
DECAY = {"resnet": 0.02, "vit": 0.05}
WARM_UP = {"resnet": 0.2, "vit": 0.15}
TEMPERATURE = 2.0


def train(
    model: nn.Module, task: Task, *, kind: str, epochs: int, teacher: nn.Module | None = None, seed: int = 0
) -> nn.Module:
    """Train with AdamW and one cycle of the learning rate; return the model in eval mode.

    A transformer has no notion of neighbouring pixels, and 6,000 digits do not teach it one; half of its loss comes
    from the residual network as a teacher.
    """
    batch, rate = BATCH[kind], RATE[kind]
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = task.train.inputs, task.train.targets
    steps = epochs * (len(targets) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=DECAY[kind])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=WARM_UP[kind])
    model.to(memory_format=torch.channels_last).train()
    start = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(len(targets), generator=generator)
        total = 0.0
        for step in range(len(targets) // batch):
            chosen = order[step * batch : (step + 1) * batch]
            images = task.augment(inputs[chosen], generator).contiguous(memory_format=torch.channels_last)
            logits = model(images)
            loss = functional.cross_entropy(logits, targets[chosen])
            if teacher is not None:
                loss = (loss + distance(logits, teacher, images)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * batch / len(targets)
        print(f"epoch {epoch + 1}/{epochs} loss {total:.4f} {time.monotonic() - start:.0f} s", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


def distance(logits: torch.Tensor, teacher: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence from the teacher's softened answers."""
    with torch.no_grad():
        known = functional.log_softmax(teacher(images) / TEMPERATURE, dim=1)
    own = functional.log_softmax(logits / TEMPERATURE, dim=1)
    return functional.kl_div(own, known, reduction="batchmean", log_target=True) * TEMPERATURE**2


def report(name: str, model: nn.Module, task: Task) -> float:
    """Print parameters and the accuracies on validation and evaluation; return the latter."""
    params = sum(p.numel() for p in model.parameters())
    validation, evaluation = (task.evaluate(model, split=s, batch_size=256) for s in ("validation", "evaluation"))
    print(f"{name}: {params} parameters, accuracy {validation:.4f} on validation, {evaluation:.4f} on evaluation")
    return evaluation


def pruned(model: nn.Module, task: Task) -> nn.Module:
    """Return a copy without the half of the channels that is smallest by L2 norm, in every layer but the last."""
    model = copy.deepcopy(model)
    torch_pruning.pruner.MagnitudePruner(
        model,
        task.examples(2),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[model.head],
    ).step()
    return model


def checks(epochs: int) -> None:
    """Print what two ways of taking capacity away cost."""
    task = digits()
    model = task.model()
    full = report("shipped", model, task)
    cut = report("half of the channels pruned, nothing recovered", pruned(model, task), task)
    torch.manual_seed(0)
    small = DigitsResNet(widths=(8, 16, 32, 48))
    train(small, task, kind="resnet", epochs=epochs)
    quarter = report("four times smaller, trained from nothing", small, task)
    for what, found, wanted in (("pruning costs", full - cut, 2), ("the smaller net costs", full - quarter, 1)):
        word = "as wanted" if 100 * found >= wanted else "too little"
        print(f"check: {what} {100 * found:.2f} points, at least {wanted} wanted: {word}")


def main() -> None:
    """Train one network or run the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(FILES))
    parser.add_argument("--checks", action="store_true")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.model:
        task = digits() if options.model == "resnet" else digits_vit()
        torch.manual_seed(0)
        model: nn.Module = DigitsResNet() if options.model == "resnet" else DigitsViT()
        epochs = options.epochs or EPOCHS[options.model]
        teacher = None if options.model == "resnet" else digits().model()
        train(model, task, kind=options.model, epochs=epochs, teacher=teacher)
        report(options.model, model, task)
        path = options.output / FILES[options.model]
        save_file(model.state_dict(), path)
        print(f"{path}: {path.stat().st_size} bytes, sha256 {sha256_file(path)}")
    if options.checks:
        checks(options.epochs or EPOCHS["resnet"])


if __name__ == "__main__":
    main()
