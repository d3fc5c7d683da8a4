"""Whether a float model seems to have been trained on the validation split."""

from __future__ import annotations

import math

_WHOLE = 1e-3
"""How far from a whole number a count may be that went through float32."""
SEEN = "The float model seems to know the validation split"
"""How the note of a baseline begins whose model scores better there than chance explains."""


def seen_note(validation: float | None, evaluation: float | None, *, samples: tuple[int, int]) -> str | None:
    """Return a warning where a model scores better on the validation split than chance explains, else None.

    Shares of right answers only: of two independent splits with these ``samples`` they differ by more than 3 standard
    errors in one case of 700. The spread of other metrics is not known.

    Examples
    --------
    >>> seen_note(0.99, 0.92, samples=(2000, 1000))[:50]
    'The float model seems to know the validation split'
    >>> seen_note(0.93, 0.92, samples=(2000, 1000)) is None
    True
    """
    if validation is None or evaluation is None:
        return None
    if not all(_is_share(value, of) for value, of in zip((validation, evaluation), samples, strict=True)):
        return None
    share = (validation * samples[0] + evaluation * samples[1]) / sum(samples)
    error = math.sqrt(share * (1 - share) * (1 / samples[0] + 1 / samples[1]))
    if validation - evaluation <= 3 * error:
        return None
    return (
        f"{SEEN}: it scores {validation:.4g} there and {evaluation:.4g} on the evaluation split, further apart than "
        "chance explains. Was it trained on those samples? Then variants that are trained again look worse there than "
        "they are: give the task validation=(inputs, targets) that the model has not seen."
    )


def _is_share(value: float, of: int) -> bool:
    """Say whether a metric may be a share of so many samples: some whole number of them."""
    return 0 <= value <= 1 and abs(value * of - round(value * of)) < _WHOLE
