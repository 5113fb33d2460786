"""The options of the stages, declared once: a field of a dataclass is an option of its commands."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from typer import Option

if TYPE_CHECKING:
    from surrogate.compare import Comparison
    from surrogate.pipeline import Request

RECIPE_KEYS = {
    "data": "data.path",
    "layout": "data.layout",
    "size": "data.size",
    "target": "data.target",
    "model": "model.name",
    "weights": "model.weights",
    "measure": "measure.name",
    "seed": "seed",
    "device": "device",
    "epochs": "{stage}.epochs",
    "batch_size": "{stage}.batch_size",
    "lr": "{stage}.lr",
    "loss": "finetune.loss",
    "ce_mix": "finetune.ce_mix",
    "refresh": "finetune.refresh",
}
"""The recipe key that an option is short for; `{stage}` is the recipe's table of the command."""

run_option = functools.partial(Option, rich_help_panel="Run")
setting = functools.partial(Option, rich_help_panel="Settings (short for recipe keys)")
output_option = functools.partial(Option, rich_help_panel="Output")

Json = Annotated[
    bool,
    output_option(
        "--json", metavar="", help="Print the result as one JSON object; errors go to stderr, with an exit code."
    ),
]
Epochs = Annotated[int | None, setting(metavar="N", help="Epochs of this stage.")]
BatchSize = Annotated[int | None, setting(metavar="N", help="Batch size of this stage.")]
Lr = Annotated[float | None, setting(metavar="RATE", help="Learning rate of this stage.")]


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What every stage takes. None is an option that was not given: it leaves the recipe as it is."""

    app: Annotated[str | None, run_option(metavar="NAME", help="Application; see `surrogate apps`.")] = None
    run: Annotated[Path | None, run_option(metavar="DIR", help="Run folder; without one, the newest.")] = None
    recipe: Annotated[
        str | None, run_option(metavar="NAME|FILE", help="Recipe of the app by name, or a file.toml.")
    ] = None
    assignments: Annotated[
        list[str] | None,
        run_option("--set", metavar="KEY=VALUE", help="Any recipe key: fit.depth=3; may be repeated."),
    ] = None
    data: Annotated[str | None, setting(metavar="PATH|NAME", help="Data folder or file, or embedded data by name.")] = (
        None
    )
    layout: Annotated[str | None, setting(metavar="NAME", help="auto, voc, cityscapes, camvid or folder.")] = None
    size: Annotated[str | None, setting(metavar="HxW", help="Resize images to it, such as 120x160.")] = None
    target: Annotated[str | None, setting(metavar="NAME", help="Column of a table that holds the class.")] = None
    model: Annotated[str | None, setting(metavar="NAME", help="Network by name, or pkg.mod:factory.")] = None
    weights: Annotated[str | None, setting(metavar="FILE", help="Weights to start from: .safetensors, .pt.")] = None
    measure: Annotated[str | None, setting(metavar="NAME", help="Metric; see `surrogate measures`.")] = None
    seed: Annotated[int | None, setting(metavar="N", help="Seed of everything random.")] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, setting(metavar="auto|cpu|cuda", help="Where to compute.")
    ] = None
    as_json: Json = False
    quiet: Annotated[bool, output_option("--quiet", metavar="", help="Print no progress.")] = False

    def request(self, stage: str) -> "Request":
        """What the pipeline is asked for: the options that were given, and nothing else.

        Raises:
            UsageError: a `--set` that is not `key=value`.
        """
        from surrogate.pipeline import Request
        from surrogate.recipe import parse_override

        given = {name: value for name, value in vars(self).items() if name in RECIPE_KEYS and value is not None}
        if given.get("refresh", "").isdecimal():
            given["refresh"] = int(given["refresh"])
        short = ((RECIPE_KEYS[name].format(stage=stage), value) for name, value in given.items())
        # --set comes last: where both name a key, the one that spells it out wins.
        overrides = (*short, *map(parse_override, self.assignments or ()))
        return Request(app=self.app, run=self.run, recipe=self.recipe, overrides=overrides)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(StageOptions):
    """Of a stage that goes through epochs."""

    epochs: Epochs = None
    batch_size: BatchSize = None
    lr: Lr = None


@dataclass(frozen=True, kw_only=True)
class CollectOptions(StageOptions):
    """Of the stage that records statistics."""

    batch_size: BatchSize = None


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(TrainOptions):
    """Of the stage that trains through the surrogate, or through a loss to compare it with."""

    loss: Annotated[
        str | None, setting(metavar="NAME", help="surrogate, a loss of the app, pkg.mod:factory, or a mean A+B.")
    ] = None
    ce_mix: Annotated[float | None, setting(metavar="SHARE", help="Share of the app's usual loss, 0 to 1.")] = None
    refresh: Annotated[
        str | None, setting(metavar="auto|never|N", help="Fit anew when it drifted, never, or every N epochs.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(StageOptions):
    """Of the stage that scores a model."""

    split: Annotated[
        Literal["train", "val", "test"], run_option(metavar="train|val|test", help="Samples to score.")
    ] = "test"
    loss: Annotated[
        str | None,
        run_option(
            metavar="NAME",
            help="Score the model finetuned with it; the word none: the baseline. Without --loss: the loss of the "
            "run's recipe (surrogate unless set), or the baseline where no model was finetuned with that.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CompareOptions(TrainOptions):
    """Of the comparison of losses; epochs and batch size are those of finetuning."""

    losses: Annotated[
        str | None,
        run_option(
            metavar="A,B,...",
            help="Losses of the app, pkg.mod:factory, variants, surrogate, surrogate:MEASURE, A+B. Without --losses: "
            "the app's usual loss and surrogate.",
        ),
    ] = None
    seeds: Annotated[int, run_option(metavar="N", min=1, help="Seeds, each with a baseline of its own.")] = 3
    lrs: Annotated[
        str | None,
        run_option(
            metavar="A,B,...", help="Learning rates; each loss takes its best on val in seed 0 (of a tie, in seed 1)."
        ),
    ] = None

    def comparison(self) -> "Comparison":
        """What to compare.

        Raises:
            UsageError: a learning rate that is not a positive number.
        """
        from surrogate.compare import Comparison
        from surrogate.errors import UsageError

        try:
            lrs = [float(lr) for lr in (self.lrs or "").split(",") if lr.strip()]
        except ValueError:
            raise UsageError(f"--lrs {self.lrs}: expected numbers, such as 2e-4,5e-4") from None
        if not all(0 < lr < math.inf for lr in lrs):
            raise UsageError(f"--lrs {self.lrs}: expected positive, finite numbers")
        losses = None if self.losses is None else [name.strip() for name in self.losses.split(",") if name.strip()]
        return Comparison(losses, self.seeds, lrs)


Options = TypeVar("Options", bound=StageOptions)


def options_from(kind: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Makes a function of one dataclass a Typer command with an option for each of its fields."""

    def decorate(command: Callable[[Options], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            command(kind(**values))

        wrapper.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined] # Typer reads this
        return wrapper

    return decorate
