"""Every setting of a run: frozen models, read from TOML, changed by overrides, written back beside each result."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from surrogate.errors import UsageError, nearest


class Section(BaseModel):
    """A table of a recipe. Unknown keys are errors; nothing changes after it was read."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


class MeasureRecipe(Section):
    """Which measure, by name; any other key is handed to the measure's factory as a keyword."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    """One of those that `surrogate measures` lists."""

    @property
    def options(self) -> dict[str, Any]:
        """The keywords for the factory."""
        return dict(self.model_extra or {})


class ModelRecipe(Section):
    """Which model. An app adds its own settings."""

    weights: str = ""
    """A file of weights that are the baseline model already; it is not trained then."""


class TrainRecipe(Section):
    """One training run: how many epochs, in which batches, by which optimizer."""

    epochs: PositiveInt = 25
    """Passes over the training split."""
    batch_size: PositiveInt = 8
    """Samples of a step."""
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    momentum: NonNegativeFloat = 0.9
    """Of SGD; AdamW keeps its own betas."""
    weight_decay: NonNegativeFloat = 0.0
    """Of the optimizer, as torch has it."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate moves from `lr`: not at all, or down to zero along a half cosine."""


class FinetuneRecipe(TrainRecipe):
    """As a training run, from the baseline model on, through another loss."""

    epochs: PositiveInt = 10
    lr: PositiveFloat = 5e-4
    schedule: Literal["constant", "cosine"] = "cosine"
    loss: str = "surrogate"
    """`surrogate`, or a hand-made loss: one of the app by name, or your own as `pkg.mod:factory`; `surrogate+dice` is
    the mean of the two."""
    surrogate: str = ""
    """File of a surrogate that another run has fitted; empty: this run's own."""
    ce_mix: float = Field(default=0.25, ge=0.0, le=1.0)
    """Share of the app's own training loss (cross-entropy in segmentation): total = (1 - mix) * loss + mix * ce."""
    from_scratch: bool = False
    """Start from a new model instead of the baseline model."""
    max_wrong_sign: float = Field(default=0.05, ge=0.0, le=1.0)
    """A surrogate whose `wrong_sign` is above this is refused; 1 takes any."""
    min_spearman: float = Field(default=0.8, ge=-1.0, le=1.0)
    """Rank correlation of surrogate and metric on validation samples below which it has drifted; -1: never."""
    refresh: Literal["auto", "never"] | PositiveInt = "auto"
    """When the surrogate is fitted again to the model as it is then: when it has drifted, never, or every N epochs. One
    that has drifted after that, or may not be fitted again, stops the training."""

    @property
    def losses(self) -> list[str]:
        """The names in `loss`."""
        return self.loss.split("+")

    @property
    def learned(self) -> bool:
        """Whether the surrogate is one of them."""
        return "surrogate" in self.losses


class CollectRecipe(Section):
    """How statistics are recorded."""

    batch_size: PositiveInt = 8
    """Samples that the model is given at once; at batch level, those that make a row."""
    passes: PositiveInt | None = None
    """How often the training split is gone through: without a number once at sample level, and at the others, where a
    batch makes the rows of one sample, three times or until there are 150 batches, each time in a new order."""
    pools: int = Field(default=10, ge=5)
    """At batch level the samples are cut into this many pools, and a batch never mixes two; a fit splits by pool."""
    augment: bool = False
    """Whether samples come with their training augmentation. A model that is right on every sample as it is has but one
    value of the metric to show; with augmentation, rows are recorded where training will be."""
    regimes: tuple[str, ...] = ("model", "sharper", "softer", "noisy", "shifted", "towards", "away", "empty", "perfect")
    """Changes of the outputs under which rows are recorded too; see `surrogate.regimes`."""
    moves: int = Field(default=4, ge=0)
    """Feasible moves of the outputs recorded per batch, for the slope of the surrogate; the kinds take turns. The small
    ones start from the model's outputs, the long ones from those of any regime."""
    noise: NonNegativeFloat = 0.0
    """Noise under which moves are judged for the slope, in units of the spread of the outputs: a metric of many
    elements that jumps from one to the other has a smooth slope there. The certificate is about moves without it."""
    shard_rows: PositiveInt = 65536
    """Rows of a file of the store."""


class FitRecipe(Section):
    """The approximator and how it is fitted. The paper's network is 4 hidden layers of 100 units."""

    columns: tuple[str, ...] = ()
    """Statistics used as inputs, by name; empty: all the measure's columns."""
    depth: PositiveInt = 4
    """Hidden layers."""
    width: PositiveInt = 100
    """Units of each."""
    activation: Literal["relu", "tanh", "silu", "softplus"] = "tanh"
    """Between the layers."""
    monotone: bool = False
    """The network cannot get the direction of an input wrong, for a measure that tells directions; the activation is a
    mixture then (see `surrogate.monotone`)."""
    epochs: PositiveInt = 200
    """Passes over the rows, at most."""
    batch_size: PositiveInt = 1024
    """Rows of a step, and moves beside them."""
    lr: PositiveFloat = 2e-3
    """Learning rate of Adam, which falls to zero along a half cosine."""
    patience: PositiveInt = 40
    """Epochs without a better error on held-out samples before the fit stops."""
    order_weight: NonNegativeFloat = 1.0
    """Weight of the error of the value's rank among the fitted rows, in units of the variance of evenly spread ranks,
    beside the squared error of the value in units of its own."""
    slope_weight: NonNegativeFloat = 0.06
    """Weight of the error of the slope along recorded moves, in units of their mean squared change, beside the squared
    error of the value in units of its variance."""
    sign_weight: NonNegativeFloat = 0.25
    """Weight of the error of the slope's sign: 1 for a slope of 0, more for one of the wrong sign."""
    holdout: float = Field(default=0.2, gt=0.0, le=0.5)
    """Share of the samples, never of the rows, held out of the fit."""


class Recipe(Section):
    """A whole run. An app derives its own recipe from it, with its `data` and `model` tables."""

    app: str
    """Whose recipe it is."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of weights, order, augmentation, moves and the split of the rows; of the data only where it says so."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU where there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward pass, by autocast; statistics and surrogate are always in fp32."""
    measure: MeasureRecipe
    data: Section
    model: ModelRecipe
    train: TrainRecipe = TrainRecipe()
    collect: CollectRecipe = CollectRecipe()
    fit: FitRecipe = FitRecipe()
    finetune: FinetuneRecipe = FinetuneRecipe()


R = TypeVar("R", bound=Recipe)


def build(kind: type[R], settings: Mapping[str, Any], *, where: str) -> R:
    """Settings as a checked recipe; `where` names their source in an error.

    A table keeps what it is not given as the recipe's class has it: of `train: TrainRecipe = TrainRecipe(epochs=20)`
    and a given batch size, the epochs are 20. But the settings of a measure are not those of another one.

    Raises:
        UsageError: an unknown key (with the nearest known name) or a value out of its range.
    """
    try:
        return kind.model_validate(_over_defaults(kind, settings))
    except ValidationError as error:
        raise UsageError(f"{where}: {_first_complaint(kind, error)}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; raises `UsageError` where it cannot be read."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); expected a recipe in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from None
    if not isinstance(tables.get("app", ""), str):
        raise UsageError(f'{path}: app is {tables["app"]!r}; expected the name of an app, such as "segmentation"')
    return tables


def to_toml(recipe: Recipe) -> str:
    """The whole resolved recipe; `build` on its tables gives an equal recipe."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def merged(settings: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A copy of nested tables with dotted keys set.

    >>> merged({"fit": {"depth": 4}}, [("fit.width", 10), ("seed", 1)])
    {'fit': {'depth': 4, 'width': 10}, 'seed': 1}
    """
    result = {key: merged(value, []) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for dotted, value in changes:
        *tables, last = dotted.split(".")
        table = result
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise UsageError(f"--set {dotted}: {name!r} is a single setting, not a table")
        table[last] = value
    return result


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=value` as a dotted key and a TOML value; what is not TOML is taken as a string.

    >>> parse_override("model.width=16"), parse_override("data.size=120x160")
    (('model.width', 16), ('data.size', '120x160'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: expected key=value, such as model.width=16")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        found = value.strip()
    if isinstance(found, float) and not math.isfinite(found):
        raise UsageError(f"--set {text}: expected a finite number")
    return key.strip(), found


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ, sorted."""
    first, second = flat(one.model_dump(mode="json")), flat(other.model_dump(mode="json"))
    return sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))


def flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables with dotted keys.

    >>> flat({"seed": 1, "fit": {"width": 10}})
    {'seed': 1, 'fit.width': 10}
    """
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _over_defaults(kind: type[Recipe], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with what is set in the class's default tables under them; pydantic takes one or the other."""
    whole = dict(settings)
    for name, field in kind.model_fields.items():
        default, given = field.get_default(call_default_factory=True), settings.get(name)
        if isinstance(default, Section) and isinstance(given, Mapping) and _goes_with(default, given):
            whole[name] = {**default.model_dump(exclude_unset=True), **given}
    return whole


def _goes_with(default: Section, given: Mapping[str, Any]) -> bool:
    return not isinstance(default, MeasureRecipe) or given.get("name", default.name) == default.name


def _first_complaint(kind: type[Recipe], error: ValidationError) -> str:
    errors = error.errors()
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return _unknown_key(kind, first["loc"])
    dotted = _key(kind, first["loc"])
    if first["type"] == "missing":
        return f"recipe key {dotted!r} is missing"
    told = [_said(other["msg"]) for other in errors if _key(kind, other["loc"]) == dotted]
    rest = [", or " + text.removeprefix("Input should be ") for text in dict.fromkeys(told[1:]) if text != told[0]]
    return f"recipe key {dotted!r} is {first['input']!r}: {told[0]}{''.join(rest)}"


def _said(message: str) -> str:
    return message.removeprefix("Value error, ").partition(", unable to parse")[0]


def _key(kind: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """The dotted key of an error's place, without the branches of a union that pydantic counts in."""
    known = path[:1]
    for part in path[1:]:
        if isinstance(part, int) or str(part) in _fields_at(kind, known):
            known = (*known, part)
        elif not _fields_at(kind, known):
            break
    return ".".join(map(str, known))


def _unknown_key(kind: type[Recipe], path: tuple[int | str, ...]) -> str:
    """With the keys of exactly that name in other tables, else with the nearest of its own."""
    dotted, last = ".".join(map(str, path)), str(path[-1])
    elsewhere = [key for key in _dotted_keys(kind) if key.rpartition(".")[2] == last]
    if elsewhere:
        return f"unknown recipe key {dotted!r}; did you mean {' or '.join(map(repr, elsewhere))}?"
    known = _fields_at(kind, path[:-1])
    return f"unknown recipe key {dotted!r}; {nearest(last, known, prefix=dotted.removesuffix(last))}"


def _dotted_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        table = _table_of(field.annotation)
        if table is None:
            yield prefix + name
        else:
            yield from _dotted_keys(table, f"{prefix}{name}.")


def _fields_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys of the table at a path; none where a single setting is."""
    for part in path:
        field = kind.model_fields.get(str(part))
        table = None if field is None else _table_of(field.annotation)
        if table is None:
            return []
        kind = table
    return list(kind.model_fields)


def _table_of(annotation: Any) -> type[BaseModel] | None:
    kinds = (annotation, *get_args(annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
