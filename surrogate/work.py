"""A request made concrete: which app, which recipe, which run folder, and what they give together."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surrogate import plugins
from surrogate.approximator import check_inputs
from surrogate.batches import seed_of
from surrogate.engine import Engine
from surrogate.errors import UsageError, nearest
from surrogate.evaluate import Counter, evaluate, measure_key
from surrogate.finetune import Selection
from surrogate.own import OwnLoss
from surrogate.progress import Stage
from surrogate.protocols import App, Measure, Task
from surrogate.provenance import provenance
from surrogate.recipe import Recipe, build, merged, read_toml
from surrogate.regimes import check_regimes
from surrogate.rundir import RunDir, claim, claim_data, claim_surrogate, newest, write_json
from surrogate.weights import load_weights


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asks for: an app, a run folder, a recipe by name or file, and dotted settings that change it."""

    app: str | None = None
    run: Path | None = None
    recipe: str | None = None
    overrides: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Work:
    """A request made concrete. Data is opened and checked when it is first needed."""

    app: App
    recipe: Recipe
    run: RunDir

    @cached_property
    def task(self) -> Task:
        """Of a recipe without weights: they are loaded here (see `model`), and an app that forgets them, or loads them
        where a new model is asked for, changes nothing."""
        untrained = self.recipe.model.model_copy(update={"weights": ""})
        return self.app.open(self.recipe.model_copy(update={"model": untrained}))

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.recipe)

    @cached_property
    def measure(self) -> Measure:
        settings = self.recipe.measure
        return plugins.load_measure(self.recipe.app, settings.name, facts=self.task.facts, options=settings.options)

    @property
    def loss_surrogate(self) -> Path:
        """The file of the surrogate that finetuning goes through."""
        given = self.recipe.finetune.surrogate
        return Path(given) if given else self.run.surrogate

    @cached_property
    def key(self) -> str:
        return measure_key(self.recipe.measure.name, self.measure)

    @property
    def test_split(self) -> str:
        """Which split the reported numbers are of: val where the data has no test split."""
        return "val" if self.task.dataset("test") is self.task.dataset("val") else "test"

    @property
    def spec(self) -> str:
        """How the numbers of this run are to be read."""
        rows = "defined rows" if self.measure.level == "sample" else "defined rows of the whole split"
        return f"{self.task.score().spec}; {self.key} = mean over {rows}"

    def model(self) -> nn.Module:
        """A model with the weights that the recipe names, or a new one; raises `DataError` where they do not fit it."""
        model = self.new_model()
        if self.recipe.model.weights:
            load_weights(Path(self.recipe.model.weights), model)
        return model

    def baseline_model(self) -> nn.Module:
        """The model of the `train` stage."""
        model = self.new_model()
        load_weights(self.run.model / "model.safetensors", model)
        return model

    def new_model(self) -> nn.Module:
        """A model without any training, drawn from the recipe's seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(self.recipe.seed))
            return self.task.model()

    def usual_loss(self) -> nn.Module:
        """The app's first loss, which trains the baseline model."""
        return self.hand_made(self.app.baselines[0])

    def hand_made(self, loss: str) -> nn.Module:
        """A loss of the app's by name, or the user's own as `pkg.mod:factory`.

        Raises:
            UsageError: it cannot be made, or is no module.
        """
        if ":" in loss:
            return OwnLoss(loss, self.task.facts)
        made = self.task.baseline(loss)
        if not isinstance(made, nn.Module):
            raise UsageError(
                f"app {self.recipe.app!r}: baseline({loss!r}) gave a {type(made).__name__}; expected a torch.nn.Module "
                "that is called with outputs and targets, such as nn.MSELoss()"
            )
        return made

    def selection(self) -> Selection:
        """Checkpoints are chosen by the measure's exact data-set form where the task has one, else by its mean."""
        key = self.task.headlines.get(self.recipe.measure.name, self.key)
        return Selection(key, self.measure.higher_is_better)

    def baseline_selection(self) -> Selection:
        """Checkpoints of the baseline are chosen by the app's own headline, where it has one.

        By a metric that is 0 until a model finds everything, an epoch that knows next to nothing may be the best.
        """
        name, key = next(iter(self.task.headlines.items()), (None, ""))
        if name is None or name == self.recipe.measure.name:
            return self.selection()
        try:
            usual = plugins.load_measure(self.recipe.app, name, facts=self.task.facts, options={})
        except UsageError:  # not installed, or nothing without settings of its own
            return self.selection()
        return Selection(key, usual.higher_is_better)

    def scores(self, model: nn.Module, split: str, beside: Sequence[Counter] = ()) -> Stage[dict[str, Any]]:
        """True numbers of a model on a split, and what others count beside them."""
        return evaluate(
            self.engine,
            self.engine.prepare(model),
            self.task.dataset(split),
            score=self.task.score(),
            measure=self.measure,
            key=self.key,
            batch_size=self.recipe.train.batch_size,
            beside=beside,
        )


def open_work(request: Request) -> Work:
    """Finds run folder, app and recipe: the folder's own recipe with the overrides, or a new one.

    Raises:
        UsageError: nothing says which app, or recipe, app or setting is unknown.
    """
    if request.run is None and request.app is None and request.recipe is not None:
        request = dataclasses.replace(request, app=_app_of(request))
    run = RunDir(request.run or (Path("runs") / request.app if request.app else newest().root))
    if (owner := run.finetuning_of()) is not None:
        raise UsageError(f"{run.root}: holds a finetuning, not a run; name its run: --run {owner}")
    stored = read_toml(run.recipe) if run.recipe.exists() and request.recipe is None else {}
    name = request.app or stored.get("app") or _app_of(request)
    app = plugins.load_app(name)
    settings = stored if request.recipe is None else read_toml(_recipe_path(app, request.recipe))
    settings = merged({"app": name, **_for_measure(settings, request.overrides)}, request.overrides)
    if settings["app"] != name and request.recipe is not None:
        raise UsageError(f"--recipe {request.recipe}: is for app {settings['app']!r}, not {name!r}; leave out --app")
    if settings["app"] != name:
        raise UsageError(
            f"{run.root}: belongs to app {settings['app']!r}, not {name!r}; name another folder with --run"
        )
    return Work(app, build(app.recipe, settings, where="recipe"), run)


def _for_measure(settings: dict[str, Any], overrides: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Settings without those of the recipe's measure where another is asked for: its level is not the other's."""
    asked, stored = dict(overrides).get("measure.name"), settings.get("measure", {})
    if asked is None or not isinstance(stored, dict) or asked == stored.get("name"):
        return settings
    return {key: value for key, value in settings.items() if key != "measure"}


def check_run(work: Work) -> None:
    """Looks at names, data, measure and model: what is wrong should leave nothing behind, and not be told after an hour
    of training."""
    check_regimes(work.recipe.collect.regimes)
    check_inputs(work.recipe.fit.columns, work.measure.columns)
    if work.recipe.fit.monotone and len(work.measure.directions) != len(work.measure.columns):
        raise UsageError(
            f"fit.monotone: measure {work.recipe.measure.name!r} does not tell the directions of its columns; "
            "set fit.monotone=false, or give Measure(directions=...)"
        )
    if not work.run.recipe.exists():
        work.model()  # to see that it can be built


def claim_run(work: Work) -> None:
    """Makes the run folder one for this recipe and this data, or insists that it is; how it is finetuned and where may
    differ."""
    before = _stored(work, work.run.recipe)
    recipe = work.recipe
    if before is not None:
        recipe = recipe.model_copy(update={"finetune": before.finetune, "device": before.device})
    fix = f"name a new folder with --run, or delete {work.run.root}"
    claim(work.run.recipe, recipe, before, fix=fix)
    claim_data(work.run.data, _fingerprint(work.task), fix=fix)
    write_json(work.run.provenance, provenance())


def _fingerprint(task: Task) -> dict[str, Any]:
    """How many samples a split has, and a digest of their names: what the statistics and the model of a run are of."""
    found = {}
    for split in ("train", "val", "test"):
        rows = task.dataset(split)
        names = "\n".join(rows.name(number) for number in range(len(rows)))
        found[split] = {"samples": len(rows), "names": hashlib.sha256(names.encode()).hexdigest()}
    return found


def claim_finetune(work: Work, folder: Path) -> None:
    """The same for the folder of one finetuning, and the surrogate that it goes through. One that was refused before
    its first step is claimed anew."""
    begun = folder.is_dir() and any(path.name != "recipe.toml" for path in folder.iterdir())
    before = _stored(work, folder / "recipe.toml") if begun else None
    recipe = work.recipe if before is None else work.recipe.model_copy(update={"device": before.device})
    fix = f"delete {folder} to finetune anew (model, statistics and surrogate stay), or keep the setting as it was"
    claim(folder / "recipe.toml", recipe, before, fix=fix)
    if begun and work.recipe.finetune.learned and work.loss_surrogate.exists():
        claim_surrogate(folder / "surrogate.json", work.loss_surrogate, fix=fix)


def _stored(work: Work, path: Path) -> Recipe | None:
    return build(type(work.recipe), read_toml(path), where=str(path)) if path.exists() else None


def _recipe_path(app: App, recipe: str) -> Path:
    if recipe in app.recipes:
        return app.recipes[recipe]
    path = Path(recipe)
    if path.suffix == ".toml":
        return path
    raise UsageError(f"--recipe {recipe}: neither a TOML file nor a shipped recipe; {nearest(recipe, app.recipes)}")


def _app_of(request: Request) -> str:
    """The app that a recipe's file names; raises `UsageError` when nothing names one."""
    if request.recipe is not None and request.recipe.endswith(".toml"):
        name = read_toml(Path(request.recipe)).get("app")
        if isinstance(name, str):
            return name
    known = " or ".join(plugin.name for plugin in plugins.listed(plugins.APPS))
    if request.recipe:
        raise UsageError(f"--recipe {request.recipe}: names no app; add --app {known}")
    raise UsageError(f"{request.run}: no run there; name a folder that holds one, or add --app {known} to make it")
