"""The space of a search: templates of recipes, backends, options of engines and batch sizes."""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Step
from workbench.core.checks import given, require_int, require_sequence
from workbench.core.config import canonical_json, check_option
from workbench.core.errors import ConfigError, RecipeError
from workbench.engine.config import ONLY_FOR, InferenceConfig
from workbench.engine.names import is_backend, unknown_backend
from workbench.study.search.domain import Choice, Domain, Draw, Maybe, Varied, representative_values
from workbench.study.search.template import Picked, domain_words, make_step, plain, template

COUNTED = 20_000
"""A space with more points counts as infinite."""
_CHECKED = 400
_ELSEWHERE = ("model_path", "backend", "candidates", "batch_size", "quantization", "provider_options")


@dataclass(frozen=True)
class Proposal:
    """One point of a space: recipe, backend, batch size, threads (None: the study's), and engine options."""

    recipe: Recipe
    backend: str
    batch_size: int
    threads: int | None
    options: tuple[tuple[str, Any], ...]


class Space:
    """The space of a search.

    Parameters
    ----------
    *steps : Step, or the result of vary, maybe or choice
        The recipe in order. ``choice`` also takes whole recipes: ``Space(wb.choice(recipe_a, recipe_b))``.
    backends : str or sequence of str
        Runtimes to choose from.
    batch_sizes : int or sequence of int
        Samples per call to choose from.
    engine : mapping, optional
        Options of :class:`InferenceConfig` by name, each a value, ``wb.choice(...)`` or ``wb.between(...)``. Options of
        some backends only are left out on the others.
    seed : int
        Seed of the recipes.

    Examples
    --------
    >>> import workbench as wb
    >>> wb.Space(
    ...     wb.maybe(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.8)), wb.Recover(epochs=2)),
    ...     wb.maybe(wb.vary(wb.Quantize, observer=wb.choice("minmax", "percentile"))),
    ...     backends="openvino",
    ... )
    Space(Prune?: ratio 0.1 to 0.8 + recover; Quantize?: observer minmax, percentile; backend openvino; batch 32)
    """

    def __init__(
        self,
        *steps: Step | Varied | Maybe | Choice,
        backends: str | Sequence[str] = ("onnxruntime", "openvino"),
        batch_sizes: int | Sequence[int] = (32,),
        engine: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.template = template(steps)
        self.backends = _backends(backends)
        self.batch_sizes = _batch_sizes(batch_sizes)
        self.engine = _engine(engine, self.backends)
        self.seed = require_int("Space: seed", seed, minimum=0)
        self._check()

    def __repr__(self) -> str:
        words = [*(node.words() for node in self.template), f"backend {', '.join(self.backends)}"]
        words.append(f"batch {', '.join(map(str, self.batch_sizes))}")
        words += [f"{name} {domain_words(value)}" for name, value in self.engine.items()]
        return f"Space({'; '.join(words)})"

    def propose(self, draw: Draw) -> Proposal:
        """Return the point chosen by ``draw``, which is called for each parameter in a fixed order.

        ConfigError or RecipeError if it is not valid, which is possible only in spaces too large to be checked whole.
        """
        drawn: dict[str, Any] = {}

        def noting(name: str, domain: Domain) -> Any:
            drawn[name] = draw(name, domain)
            return drawn[name]

        picked, backend, batch_size, options = self._walk(noting)
        config = _config(backend, batch_size, canonical_json(options))
        threads = options.pop("threads", None)
        changed = sorted((name, value) for name, value in options.items() if name in config.changed())
        return Proposal(self._recipe(picked, drawn), backend, batch_size, threads, tuple(changed))

    def at(self, point: Mapping[str, Any]) -> Proposal:
        """Return the point with these parameters of :meth:`points`."""
        return self.propose(functools.partial(value_at, point))

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield the parameters of every point, with both ends of continuous ranges."""
        path: list[int] = []
        while True:
            counts: list[int] = []
            chosen: dict[str, Any] = {}
            self._walk(functools.partial(_replay, path, counts, chosen))
            yield chosen
            while path and path[-1] + 1 == counts[len(path) - 1]:
                path.pop()
            if not path:
                return
            path[-1] += 1

    @functools.cached_property
    def size(self) -> int | None:
        """Number of points, or None for continuous ranges and over 20,000 points."""
        if any(domain.continuous for domain in self.domains.values()):
            return None
        count = sum(1 for _ in itertools.islice(self.points(), COUNTED + 1))
        return count if count <= COUNTED else None

    @functools.cached_property
    def domains(self) -> dict[str, Domain]:
        """Every parameter, by name."""
        domains = {name: domain for node in self.template for name, domain in node.domains()}
        for name, values in (("backend", self.backends), ("batch_size", self.batch_sizes)):
            if len(values) > 1:
                domains[name] = Choice(values)
        return domains | {f"engine.{name}": value for name, value in self.engine.items() if isinstance(value, Domain)}

    def path_to(self, step: type[Step], option: str) -> dict[str, Any] | None:
        """Return the parameters that lead to an open option of a step, with None for its own, or None."""
        return next((path for node in self.template if (path := node.path_to(step, option)) is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON-ready values; equal spaces give equal values."""
        return {
            "steps": [plain(node.part) for node in self.template],
            "backends": list(self.backends),
            "batch_sizes": list(self.batch_sizes),
            "engine": {name: plain(value) for name, value in self.engine.items()},
            "seed": self.seed,
        }

    def _walk(self, draw: Draw) -> tuple[list[Picked], str, int, dict[str, Any]]:
        """Draw all parameters."""
        picked = [one for node in self.template for one in node.pick(draw)]
        backends, sizes = self.backends, self.batch_sizes
        backend = draw("backend", Choice(backends)) if len(backends) > 1 else backends[0]
        batch_size = draw("batch_size", Choice(sizes)) if len(sizes) > 1 else sizes[0]
        options = {
            name: draw(f"engine.{name}", value) if isinstance(value, Domain) else value
            for name, value in self.engine.items()
            if backend in ONLY_FOR.get(name, (backend,))
        }
        return picked, backend, batch_size, options

    def _recipe(self, picked: Sequence[Picked], drawn: Mapping[str, Any]) -> Recipe:
        """Return the recipe; its name shows drawn options that its label lacks."""
        plain_recipe = Recipe(*map(make_step, picked), seed=self.seed)
        words, options = [], {name for node in self.template for name in node.options()}
        for name, value in drawn.items():
            option = name.rpartition(".")[2]
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            if name in options and shown not in plain_recipe.label:
                words.append(f"{option}={shown}")
        return Recipe(*plain_recipe.steps, seed=self.seed, name=", ".join([plain_recipe.label, *words]))

    def _check(self) -> None:
        """Validate all points of a small space, else random ones."""
        few = list(itertools.islice(self.points(), _CHECKED + 1))
        for point in few[:_CHECKED]:
            self._refuse_bad(functools.partial(value_at, point))
        if len(few) > _CHECKED:
            chance = random.Random(0)
            for _ in range(_CHECKED):
                self._refuse_bad(lambda _, domain: meaning(domain, chance.choice(domain.values())))

    def _refuse_bad(self, draw: Draw) -> None:
        chosen: dict[str, Any] = {}

        def noting(name: str, domain: Domain) -> Any:
            value = draw(name, domain)
            chosen[name] = next((v for v in domain.values() if meaning(domain, v) is value), value)
            return value

        try:
            self.propose(noting)
        except (ConfigError, RecipeError) as error:
            words = ", ".join(f"{name}={value!r}" for name, value in chosen.items()) or "its only one"
            raise ConfigError(
                f"Space: a point is not valid ({words}): {error} Put steps that need each other into one maybe(...), "
                "and options that need each other into a choice(vary(...), vary(...))."
            ) from error


def meaning(domain: Domain, value: Any) -> Any:
    """Return the option of a domain's value."""
    return domain.option(value) if isinstance(domain, Choice) else value


def _replay(path: list[int], counts: list[int], chosen: dict[str, Any], name: str, domain: Domain) -> Any:
    """Draw the value at this position of ``path``, or the first one after its end."""
    place, values = len(counts), domain.values()
    if place == len(path):
        path.append(0)
    counts.append(len(values))
    chosen[name] = values[path[place]]
    return meaning(domain, chosen[name])


def value_at(point: Mapping[str, Any], name: str, domain: Domain) -> Any:
    """Draw the value of a parameter from a point."""
    return meaning(domain, point[name])


@functools.lru_cache(maxsize=4096)
def _config(backend: str, batch_size: int, options: str) -> InferenceConfig:
    return InferenceConfig(backend=backend, batch_size=batch_size, **json.loads(options))


def _backends(backends: Any) -> tuple[str, ...]:
    names = (backends,) if isinstance(backends, str) else require_sequence("Space: backends", backends, of=str)
    if not names:
        raise ConfigError("Space: backends is empty. Give at least one, such as backends=('onnxruntime',).")
    for name in names:
        if not isinstance(name, str) or not is_backend(name):
            raise ConfigError(f"Space: {unknown_backend(str(name))}")
    return tuple(dict.fromkeys(names))


def _batch_sizes(sizes: Any) -> tuple[int, ...]:
    several = (sizes,) if isinstance(sizes, int) else require_sequence("Space: batch_sizes", sizes, of=int)
    checked = tuple(require_int("Space: each of batch_sizes", size) for size in several)
    if not checked:
        raise ConfigError("Space: batch_sizes is empty. Give at least one, such as batch_sizes=(32,).")
    return tuple(dict.fromkeys(checked))


def _engine(engine: Any, backends: tuple[str, ...]) -> dict[str, Any]:
    if engine is None:
        return {}
    if not isinstance(engine, Mapping):
        example = "{'threads': wb.choice(1, 2)}"
        raise ConfigError(f"Space: engine must be options by name, such as {example}, got {given(engine)}.")
    for name, value in engine.items():
        if name in _ELSEWHERE:
            raise ConfigError(
                f"Space: engine cannot hold {name!r}. Use backends=..., batch_sizes=..., or a step that changes the "
                "model."
            )
        for one in representative_values(value):
            if one is not None and not isinstance(one, bool | int | float | str):
                raise ConfigError(f"Space: engine[{name!r}] must be plain values, got {given(one)}.")
            if name != "precision":  # the config accepts names of precisions
                check_option(InferenceConfig, name, one)
        if not set(ONLY_FOR.get(name, backends)) & set(backends):
            raise ConfigError(
                f"Space: engine[{name!r}] needs the backend {' or '.join(ONLY_FOR[name])}, got {', '.join(backends)}."
            )
    return dict(engine)
