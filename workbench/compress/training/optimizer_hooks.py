"""Pre- and post-step hooks for any optimizer, independent of the training loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

StepHook = Callable[[Optimizer], None]


def _nothing(_: Optimizer) -> None:
    return None


@contextmanager
def optimizer_step_hooks(*, before: StepHook = _nothing, after: StepHook = _nothing) -> Iterator[None]:
    """Call ``before(optimizer)`` and ``after(optimizer)`` around every optimizer step of this thread.

    ``before`` sees the gradients, ``after`` the new weights; both run without recording gradients.
    """
    thread = threading.get_ident()

    def mine(hook: StepHook) -> Callable[[Optimizer, Any, Any], None]:
        def call(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            if threading.get_ident() == thread:
                with torch.no_grad():
                    hook(optimizer)

        return call

    handles = [register_optimizer_step_pre_hook(mine(before)), register_optimizer_step_post_hook(mine(after))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
