"""The glue: stages over an app, a recipe and a run folder. Each makes what it needs and is missing, and nothing twice."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surrogate import approximator, checkpoint, collect as collecting, finetune as finetuning, fit as fitting, plugins
from surrogate.batches import seed_of
from surrogate.describe import apps as apps, doctor as doctor, inspect as inspect, measures as measures
from surrogate.engine import Engine
from surrogate.errors import DataError, UsageError, nearest
from surrogate.evaluate import evaluate as evaluating, measure_key
from surrogate.loss import SurrogateLoss, check_matches
from surrogate.progress import Progress, Stage
from surrogate.protocols import App, Measure, Task
from surrogate.provenance import provenance
from surrogate.recipe import Recipe, build, merged, read_toml
from surrogate.rundir import RunDir, claim, newest, read_json, write_json
from surrogate.store import StatsStore, StoreSpec, StoreWriter


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
        return self.app.open(self.recipe)

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.recipe)

    @cached_property
    def measure(self) -> Measure:
        settings = self.recipe.measure
        return plugins.load_measure(self.recipe.app, settings.name, facts=self.task.facts, options=settings.options)

    @cached_property
    def key(self) -> str:
        return measure_key(self.recipe.measure.name, self.measure)

    @property
    def spec(self) -> str:
        """How the numbers of this run are to be read."""
        return f"{self.task.score().spec}; {self.key} = mean over defined rows"

    def model(self) -> nn.Module:
        """A new model, drawn from the recipe's seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(self.recipe.seed))
            return self.task.model()

    def baseline_model(self) -> nn.Module:
        """The model of the `train` stage."""
        model = self.model()
        checkpoint.load_weights(self.run.model / "model.safetensors", model)
        return model

    def selection(self) -> finetuning.Selection:
        """Checkpoints are chosen by the measure's exact data-set form where the task has one, else by its mean."""
        key = self.task.headlines.get(self.recipe.measure.name, self.key)
        return finetuning.Selection(key, self.measure.higher_is_better)

    def scores(self, model: nn.Module, split: str) -> Stage[dict[str, Any]]:
        """True numbers of a model on a split."""
        return evaluating(
            self.engine,
            self.engine.prepare(model),
            self.task.dataset(split),
            score=self.task.score(),
            measure=self.measure,
            key=self.key,
            batch_size=self.recipe.train.batch_size,
        )


def train(request: Request) -> Stage[dict[str, Any]]:
    """Trains the baseline model with the app's own loss, or takes the weights that the recipe names."""
    return (yield from _train(_claimed(request)))


def collect(request: Request) -> Stage[dict[str, Any]]:
    """Records statistics of the baseline model; trains it first when it is missing."""
    return (yield from _collect(_claimed(request)))


def fit(request: Request) -> Stage[dict[str, Any]]:
    """Fits the surrogate; trains and collects first when those are missing."""
    return (yield from _fit(_claimed(request)))


def finetune(request: Request) -> Stage[dict[str, Any]]:
    """Finetunes the baseline model through the surrogate, or through a hand-made loss by name."""
    work = _work(request)
    loss = work.recipe.finetune.loss
    if loss != "surrogate" and loss not in work.app.baselines:
        raise UsageError(f"--loss {loss}: no such loss; {nearest(loss, ['surrogate', *work.app.baselines])}")
    _claim_run(work)
    return (yield from _finetune(work))


def evaluate(request: Request, *, split: str = "test") -> Stage[dict[str, Any]]:
    """True numbers of the finetuned model, or of the baseline model when there is none (`finetune.loss` = "none")."""
    work = _work(request)
    loss = work.recipe.finetune.loss
    folder = work.run.finetune(loss)
    if "finetune.loss" in dict(request.overrides) and loss != "none" and not folder.exists():
        raise UsageError(f"{folder}: not there; make it with `surrogate finetune --run {work.run.root} --loss {loss}`")
    before = work.baseline_model()
    models = {"before": before}
    scores = {"before": (yield from work.scores(before, split))}
    if folder.exists():
        after = work.model()
        checkpoint.load_weights(folder / "model.safetensors", after)
        models["after"], scores["after"] = after, (yield from work.scores(after, split))
    return {
        "run": str(work.run.root),
        "model": str(folder if "after" in models else work.run.model),
        "split": split,
        "spec": work.spec,
        "metrics": list(scores.values())[-1],
        "figures": [str(path) for path in work.task.figures(work.run.root, models, scores)],
    }


def _train(work: Work) -> Stage[dict[str, Any]]:
    folder, settings = work.run.model, work.recipe.train
    weights, report = folder / "model.safetensors", folder / "train.json"
    if not report.exists():
        yield Progress("train", 0, settings.epochs, message=f"data: {work.task.about}")
        model = work.model()
        if work.recipe.model.weights:
            validation = yield from work.scores(model, "val")
            checkpoint.save_weights(weights, model)
            result = {"epoch": 0, "validation": validation, "epochs": 0}
        else:
            result = yield from finetuning.finetune(
                work.engine,
                model,
                work.task.baseline(work.app.baselines[0]),
                work.task.dataset("train"),
                validate=lambda m: work.scores(m, "val"),
                select=work.selection(),
                settings=settings,
                seed=work.recipe.seed,
                folder=folder,
                stage="train",
                keep_start=False,
            )
        write_json(report, result)
    done = read_json(report)
    return {
        "run": str(work.run.root),
        "checkpoint": str(weights),
        "epochs": done["epochs"],
        "metrics": done["validation"],
        "spec": f"{work.spec}; split=val",
    }


def _collect(work: Work) -> Stage[dict[str, Any]]:
    yield from _train(work)
    settings, stats = work.recipe.collect, work.run.stats
    if not (StatsStore.is_complete(stats) and StatsStore.is_complete(work.run.moves)):
        spec = _store_spec(work)
        rows = StoreWriter(stats, spec, shard_rows=settings.shard_rows)
        moved = dataclasses.replace(
            spec, columns=collecting.move_columns(work.measure), regimes=collecting.KINDS
        )
        moves = StoreWriter(work.run.moves, moved, shard_rows=settings.shard_rows)
        yield from collecting.collect(
            work.engine,
            work.baseline_model(),
            work.task.dataset("train"),
            work.measure,
            work.task.perfect,
            rows=rows,
            moves=moves,
            settings=settings,
            seed=work.recipe.seed,
        )
    store = StatsStore.open(stats)
    counts = torch.zeros(len(store.spec.regimes), dtype=torch.int64)
    for shard in store.shards():
        counts += torch.bincount(shard.regime.long(), minlength=len(counts))
    return {
        "run": str(work.run.root),
        "store": str(stats),
        "rows": store.rows,
        "undefined": store.undefined,
        "columns": list(store.spec.columns),
        "measure": store.spec.measure,
        "level": store.spec.level,
        "regimes": dict(zip(store.spec.regimes, counts.tolist(), strict=True)),
    }


def _fit(work: Work) -> Stage[dict[str, Any]]:
    if work.run.fit_report.exists():
        return read_json(work.run.fit_report)
    yield from _collect(work)
    rows, moves = StatsStore.open(work.run.stats), StatsStore.open(work.run.moves)
    surrogate, fidelity = yield from fitting.fit(
        rows,
        moves,
        settings=work.recipe.fit,
        seed=work.recipe.seed,
        device=work.engine.device,
        state=work.run.fit_state,
    )
    approximator.save(surrogate, _card(work, surrogate, fidelity), work.run.surrogate)
    report, figures = work.task.report_fit(surrogate, work.run.root)
    result = {
        "run": str(work.run.root),
        "surrogate": str(work.run.surrogate),
        "rows": rows.rows,
        "columns": list(surrogate.inputs),
        "measure": work.recipe.measure.name,
        "level": work.measure.level,
        "fidelity": fidelity,
        "report": report,
        "figures": [str(path) for path in figures],
    }
    write_json(work.run.fit_report, result)
    work.run.fit_state.unlink(missing_ok=True)
    return result


def _finetune(work: Work) -> Stage[dict[str, Any]]:
    settings = work.recipe.finetune
    folder = work.run.finetune(settings.loss)
    _claim_finetune(work, folder)
    finished = _finished(work.run)
    if settings.loss not in finished:
        if settings.loss == "surrogate" and not settings.surrogate:
            yield from _fit(work)
        else:
            yield from _train(work)
        loss = _loss(work)
        before = work.baseline_model()
        after = copy.deepcopy(before)
        yield from finetuning.finetune(
            work.engine,
            after,
            finetuning.MixedLoss(loss, work.task.baseline(work.app.baselines[0]), mix=settings.ce_mix),
            work.task.dataset("train"),
            validate=lambda m: work.scores(m, "val"),
            select=work.selection(),
            settings=settings,
            seed=seed_of(work.recipe.seed, 1),
            folder=folder,
        )
        models, scores = {"before": before, "after": after}, {}
        for name, model in models.items():
            scores[name] = yield from work.scores(model, "test")
            scores[name]["val"] = _scalars((yield from work.scores(model, "val")))
        figures = work.task.figures(folder, models, scores)
        finished[settings.loss] = {**scores, "figures": [str(path) for path in figures]}
        write_json(work.run.report, finished)
    return {
        "run": str(work.run.root),
        "loss": settings.loss,
        "checkpoint": str(folder / "model.safetensors"),
        **finished[settings.loss],
        "spec": f"{work.spec}; split=test, val beside it",
        "losses": {name: {"before": entry["before"], "after": entry["after"]} for name, entry in finished.items()},
    }


def _loss(work: Work) -> nn.Module:
    """The loss module that finetuning asks for; a surrogate is checked against data and measure first."""
    settings = work.recipe.finetune
    if settings.loss != "surrogate":
        return work.task.baseline(settings.loss)
    path = Path(settings.surrogate) if settings.surrogate else work.run.surrogate
    surrogate, card = approximator.load(path)
    wanted = (work.recipe.app, work.recipe.measure.name)
    if (card.app, card.measure) != wanted:
        raise DataError(
            f"{path}: fitted for measure {card.measure!r} of app {card.app!r}; this run is about {wanted[1]!r} of {wanted[0]!r}"
        )
    for fact, value in card.facts.items():
        if fact in work.task.facts and work.task.facts[fact] != value:
            raise DataError(
                f"{path}: fitted with {fact}={value}, this run has {fact}={work.task.facts[fact]}; fit again on this data"
            )
    check_matches(card, work.measure, path=path)
    return SurrogateLoss(work.measure, surrogate)


def _card(work: Work, surrogate: approximator.Surrogate, fidelity: dict[str, Any]) -> approximator.Card:
    return approximator.Card(
        app=work.recipe.app,
        measure=work.recipe.measure.name,
        options=work.recipe.measure.options,
        facts=dict(work.task.facts),
        version=work.measure.version,
        level=work.measure.level,
        columns=surrogate.columns,
        inputs=surrogate.inputs,
        depth=surrogate.depth,
        width=surrogate.width,
        activation=surrogate.activation,
        fidelity=fidelity,
    )


def _store_spec(work: Work) -> StoreSpec:
    return StoreSpec(
        app=work.recipe.app,
        measure=work.recipe.measure.name,
        measure_version=work.measure.version,
        level=work.measure.level,
        columns=work.measure.columns,
        regimes=work.recipe.collect.regimes,
        policies={**work.task.facts, **work.recipe.measure.options},
    )


def _work(request: Request) -> Work:
    """Finds run folder, app and recipe: the folder's own recipe with the overrides, or a new one."""
    run = RunDir(request.run or (Path("runs") / request.app if request.app else newest().root))
    if run.recipe.exists() and request.recipe is None:
        settings = read_toml(run.recipe)
    elif request.app is None and request.recipe is None:
        raise UsageError(f"{run.root}: no run there; begin one with --app {' or '.join(_app_names())}")
    else:
        settings = {}
    name = request.app or settings.get("app") or _app_of(request.recipe)
    app = plugins.load_app(name)
    if request.recipe is not None:
        settings = read_toml(_recipe_path(app, request.recipe))
    settings = merged({**settings, "app": settings.get("app", name)}, request.overrides)
    if settings["app"] != name:
        raise UsageError(f"{run.root}: belongs to app {settings['app']!r}, not {name!r}; name another folder with --run")
    return Work(app, build(app.recipe, settings, where="recipe"), run)


def _claimed(request: Request) -> Work:
    work = _work(request)
    _claim_run(work)
    return work


def _claim_run(work: Work) -> None:
    """The run folder is for this recipe; how it is finetuned and where it is computed may differ between commands."""
    work.task  # noqa: B018: data is checked before anything is written
    work.measure  # noqa: B018
    before = build(type(work.recipe), read_toml(work.run.recipe), where=str(work.run.recipe)) if work.run.recipe.exists() else None
    recipe = work.recipe
    if before is not None:
        recipe = recipe.model_copy(update={"finetune": before.finetune, "device": before.device})
    claim(work.run.recipe, recipe, before)
    write_json(work.run.provenance, provenance())


def _claim_finetune(work: Work, folder: Path) -> None:
    path = folder / "recipe.toml"
    before = build(type(work.recipe), read_toml(path), where=str(path)) if path.exists() else None
    recipe = work.recipe if before is None else work.recipe.model_copy(update={"device": before.device})
    claim(path, recipe, before)


def _finished(run: RunDir) -> dict[str, Any]:
    return read_json(run.report) if run.report.exists() else {}


def _scalars(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if not isinstance(value, Mapping)}


def _recipe_path(app: App, recipe: str) -> Path:
    if recipe in app.recipes:
        return app.recipes[recipe]
    path = Path(recipe)
    if path.suffix == ".toml":
        return path
    raise UsageError(f"--recipe {recipe}: neither a TOML file nor a shipped recipe; {nearest(recipe, app.recipes)}")


def _app_of(recipe: str | None) -> str:
    if recipe is not None and recipe.endswith(".toml"):
        name = read_toml(Path(recipe)).get("app")
        if isinstance(name, str):
            return name
    raise UsageError(f"--recipe {recipe}: does not name an app; add --app {' or '.join(_app_names())}")


def _app_names() -> list[str]:
    return [plugin.name for plugin in plugins.listed(plugins.APPS)]
