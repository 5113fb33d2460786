"""Losses next to each other: same start, data and budget, several seeds, chosen on val, reported on test."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from surrogate import drift, pipeline, plugins
from surrogate.atomic import write_atomic
from surrogate.curves import draw_curves, history
from surrogate.errors import DivergedError, QualityError, UsageError, nearest
from surrogate.finetune import Selection
from surrogate.progress import Progress, Stage
from surrogate.rundir import write_json
from surrogate.table import factor, numbers_of, to_csv, to_latex, to_markdown
from surrogate.weights import load_weights
from surrogate.work import Request, Work, open_work

LEARNED = "surrogate"
BEFORE = "before"
Runs = dict[float, list[dict[str, Any]]]
"""The runs of a loss so far, by learning rate."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is asked for."""

    losses: Sequence[str] | None
    """Hand-made losses (the app's, or `pkg.mod:factory`), variants of the app, `surrogate` (the recipe's own),
    `surrogate:MEASURE`; `A+B` is the mean of any of them and a hand-made loss. None: the app's first one and
    `surrogate`."""
    seeds: int
    lrs: Sequence[float] = ()
    """Each loss takes the one that is best on val in the first seed, of those that tie in the next; none: the
    recipe's."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """One loss by its name: what it is finetuned by, and what it changes in the recipe."""

    name: str
    finetuned_by: str
    changes: tuple[tuple[str, Any], ...]
    fitted_for: str = LEARNED
    """Whose surrogate it takes: a mean has that of the first loss in it, where that is a learned one."""

    @property
    def learned(self) -> bool:
        return LEARNED in self.finetuned_by.split("+")


def compare(request: Request, comparison: Comparison) -> Stage[dict[str, Any]]:
    """Trains every loss from the same checkpoint in every seed and writes the tables and figures of it.

    The same request goes on where it was stopped, and adds what is new in the lists. A run that diverges or is
    refused is told in its row, with the reason.

    Writes:
        `seed-<n>/` run folders below the request's; `compare.json`, `table.md`, `table.csv`, `table.tex`, figures.

    Raises:
        UsageError: an unknown loss, before anything runs.
    """
    if request.run is None:
        raise UsageError("compare: name a folder for it with --run, such as --run runs/compare")
    _check_asked(request, request.run, comparison)
    work = open_work(dataclasses.replace(request, run=request.run / "seed-0" / "base"))
    asked = (work.app.baselines[0], LEARNED) if comparison.losses is None else comparison.losses
    losses = [_loss(work, name) for name in dict.fromkeys(asked)]
    lrs = list(comparison.lrs) or [work.recipe.finetune.lr]
    rows = {loss.name: _row(loss.name, lrs[0], []) for loss in losses}
    tried: dict[str, Runs] = {loss.name: {lr: [] for lr in lrs} for loss in losses}
    starts = []
    for seed in range(comparison.seeds):
        base = _request(work, request.run / f"seed-{seed}" / "base", seed)
        yield Progress("compare", seed, comparison.seeds, message=f"compare: seed {seed}, the common start")
        trained = yield from pipeline.train(base)
        for number, loss in enumerate(losses):
            yield Progress(
                "compare",
                number,
                len(losses),
                message=f"compare: seed {seed}, {loss.name} ({number + 1}/{len(losses)})",
            )
            row, runs = rows[loss.name], tried[loss.name]
            for lr in list(runs):
                try:
                    found = yield from _run(work, base, Path(trained["checkpoint"]), loss, lr, seed)
                    runs[lr].append({"seed": seed, **found})
                except (DivergedError, QualityError) as error:
                    row["failed"].append({"seed": seed, "lr": lr, "error": str(error)})
            tried[loss.name] = _best(runs)
            row["lr"], row["runs"] = next(iter(tried[loss.name].items()))
        starts.append(_start(seed, rows))
    result = _result(work, comparison, lrs, [_row(BEFORE, None, starts), *rows.values()])
    yield from _written(work, request.run, result)
    return result


def _check_asked(request: Request, run: Path, comparison: Comparison) -> None:
    """Raises `UsageError` at what a comparison settles by itself, or has nothing to do with."""
    if (run / "recipe.toml").exists():
        raise UsageError(
            f"{run}: holds a run, not a comparison; name another folder, and give the run's settings again"
        )
    if comparison.losses is not None and not comparison.losses:
        raise UsageError("compare: no losses; name some, as by --losses surrogate, or leave --losses out")
    asked = dict(request.overrides)
    for key, instead in (("seed", "seeds 0 to N - 1 by --seeds N"), ("finetune.surrogate", "surrogates of its own")):
        if key in asked:
            raise UsageError(f"compare: {key} is set to {asked[key]!r}; a comparison takes {instead}")


def _best(runs: Runs) -> Runs:
    """The rates that are best on val so far, in all seeds that they ended in; those that tie, in the order given.

    One remains after the first seed, nearly always. Of few samples a metric has few values, and then two may be level:
    both go on to the next seed, or the list would decide by its order.
    """
    values = {lr: (len(ended), sum(map(_on_val, ended))) for lr, ended in runs.items()}
    return {lr: ended for lr, ended in runs.items() if values[lr] == max(values.values())}


def _row(loss: str, lr: float | None, runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"loss": loss, "lr": lr, "runs": runs, "failed": []}


def _loss(work: Work, name: str) -> Loss:
    app = work.app
    first, *beside = name.split("+")
    if beside:
        loss = _loss(work, first)
        finetuned_by = "+".join((loss.finetuned_by, *beside))
        pipeline.check_loss(finetuned_by, work)
        return Loss(name, finetuned_by, *((loss.changes, loss.fitted_for) if loss.learned else ((),)))
    if name in app.baselines:
        mix = () if name != app.baselines[0] else (("finetune.ce_mix", 1.0),)
        return Loss(name, name, mix)
    if name in app.variants:
        return Loss(name, LEARNED, tuple(app.variants[name].items()), name)
    if name == LEARNED:
        return Loss(name, LEARNED, ())
    measures = {plugin.name for plugin in plugins.listed(plugins.MEASURES + work.recipe.app)}
    kind, _, rest = name.partition(":")
    if kind == LEARNED and rest in measures:
        return Loss(name, LEARNED, (("measure", {"name": rest}),), name)
    if rest and kind != LEARNED:
        pipeline.check_loss(name, work)
        return Loss(name, name, ())
    known = [*app.baselines, *app.variants, LEARNED, *(f"{LEARNED}:{m}" for m in measures)]
    raise UsageError(f"--losses {name}: no such loss; {nearest(name, known)} (or your own, as pkg.mod:factory)")


def _request(work: Work, run: Path, seed: int, *changes: tuple[str, Any]) -> Request:
    """A run of the comparison's recipe, with a seed of its own and changes."""
    whole = work.recipe.model_dump(mode="json", exclude_none=True)
    tables = [(key, value) for key, value in whole.items() if key not in ("app", "seed")]
    return Request(app=work.recipe.app, run=run, overrides=(*tables, ("seed", seed), *changes))


def _run(work: Work, base: Request, weights: Path, loss: Loss, lr: float, seed: int) -> Stage[dict[str, Any]]:
    """One finetuning: `{"val": {...}, "test": {...}, "before": {...}, "folder": ...}`, the folder within the whole."""
    assert base.run is not None
    folder = base.run.parent / _file_name(loss.name)
    changes = (*loss.changes, ("model.weights", str(weights)))
    if loss.learned:
        of = base.run.parent / _file_name(loss.fitted_for) / "fit"
        fitted = yield from pipeline.fit(_request(work, of, seed, *changes))
        changes = (*changes, ("finetune.surrogate", fitted["surrogate"]))
    if dict(loss.changes).get("finetune.from_scratch"):
        changes = (*changes, ("finetune.epochs", work.recipe.train.epochs + work.recipe.finetune.epochs))
    settings = (*changes, ("finetune.loss", loss.finetuned_by), ("finetune.lr", lr))
    tuned = yield from pipeline.finetune(_request(work, folder / f"lr-{lr:g}", seed, *settings))
    run = folder / f"lr-{lr:g}"
    here = open_work(_request(work, run, seed, *settings))
    selection, folder = here.selection(), Path(tuned["checkpoint"]).parent
    return {
        "val": tuned["after"]["val"],
        "test": {name: value for name, value in tuned["after"].items() if name not in ("val", "figures")},
        "before": tuned["before"],
        "selected_by": selection.key,
        "higher_is_better": selection.higher_is_better,
        "bounds": here.measure.bounds,
        "fidelity": fitted["fidelity"] if loss.learned else None,
        "agreement": _agreement(folder, selection, {} if here.recipe.finetune.from_scratch else tuned["before"]["val"]),
        "folder": folder.relative_to(base.run.parents[1]).as_posix(),
    }


def _file_name(loss: str) -> str:
    return loss.replace(":", "-")


def _on_val(found: Mapping[str, Any]) -> float:
    """What is best on val: the number by which the run's own checkpoint was chosen, signed so that more is better."""
    value = found["val"].get(found["selected_by"])
    if value is None:
        return float("-inf")
    return float(value) if found["higher_is_better"] else -float(value)


def _agreement(folder: Path, selection: Selection, start: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a surrogate followed the metric on val in the epoch whose weights were kept.

    None for a hand-made loss, and where the start was kept: it is no output of the training. `start` is empty where a
    new model was trained, whose start is never kept.
    """
    epochs = [scores for scores in history(folder) if drift.KEY in scores and scores.get(selection.key) is not None]
    choose = max if selection.higher_is_better else min
    best = choose(epochs, key=lambda scores: scores[selection.key], default={})
    kept = best and selection.better(best[selection.key], start.get(selection.key))
    return best.get(drift.KEY) if kept else None


def _start(seed: int, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of the common start, as the first loss of the seed has found them."""
    for row in rows.values():
        for run in row["runs"]:
            if run["seed"] == seed:
                before = run["before"]
                return {
                    "seed": seed,
                    "val": before["val"],
                    "test": {name: value for name, value in before.items() if name not in ("val", "figures")},
                }
    return {"seed": seed, "val": {}, "test": {}}


_REPORTED = {
    "test": "test unless val",
    "val": "all of val (the data has no test split; checkpoints and learning rates are chosen by val too)",
}
"""How the split of the reported numbers is told."""


def _result(work: Work, comparison: Comparison, lrs: list[float], rows: list[dict[str, Any]]) -> dict[str, Any]:
    settings = work.recipe.finetune
    for row in rows:
        numbers: dict[str, list[float]] = {}
        for run in row["runs"]:
            run.pop("before", None)
            for name, value in numbers_of(run).items():
                if isinstance(value, int | float):
                    numbers.setdefault(name, []).append(float(value))
        row["mean"] = {name: statistics.fmean(values) for name, values in numbers.items()}
        row["sd"] = {name: statistics.stdev(values) for name, values in numbers.items() if len(values) > 1}
        row["undefined"] = {name: len(row["runs"]) - len(v) for name, v in numbers.items() if len(v) < len(row["runs"])}
    return {
        "spec": f"{work.spec}; {_REPORTED[work.test_split]}; mean over seeds, sample standard deviation",
        "headline": work.selection().key,
        "higher_is_better": work.measure.higher_is_better,
        "columns": _columns(work, rows),
        "budget": {
            "start": f"{work.recipe.train.epochs} epochs of {work.app.baselines[0]}",
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "lrs": lrs,
            "lr": "the best on val in seed 0, by what the row's checkpoints are selected by; a tie goes on to seed 1",
            "mix": f"{settings.ce_mix} {work.app.baselines[0]}, but for that loss itself",
        },
        "seeds": comparison.seeds,
        "rows": rows,
    }


def _columns(work: Work, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, bool]]:
    """Of the numbers that a row was chosen by: which way is better, and whether they are told in points (x 100)."""
    known = {work.selection().key: (work.measure.higher_is_better, work.measure.bounds)}
    for row in rows:
        for run in row["runs"]:
            if "bounds" in run:
                known[run["selected_by"]] = run["higher_is_better"], run["bounds"]
    return {
        key: {"higher_is_better": higher, "points": max(map(abs, bounds)) <= 1.0}
        for key, (higher, bounds) in known.items()
    }


def _written(work: Work, folder: Path, result: dict[str, Any]) -> Stage[None]:
    yield Progress("compare", 0, 1, message=f"compare: tables and figures in {folder}")
    write_json(folder / "compare.json", result)
    tables = {folder / "table.md": to_markdown, folder / "table.csv": to_csv, folder / "table.tex": to_latex}
    for path, writer in tables.items():
        write_atomic(path, writer(result).encode())
    curves = {row["loss"]: [history(folder / run["folder"]) for run in row["runs"]] for row in result["rows"][1:]}
    figures = draw_curves(
        folder / "curves.png", curves, key=result["headline"], factor=factor(result, result["headline"])
    )
    best = _shown(work, result)
    if best:
        scores = {name: {**_nested(row["mean"]), "sd": _nested(row["sd"])} for name, row in best.items()}
        models = {name: _model(work, folder / row["runs"][0]["folder"]) for name, row in best.items()}
        figures += work.task.figures(folder, models, scores)
    result["tables"] = [str(path) for path in tables]
    result["figures"] = [str(path) for path in figures]


def _shown(work: Work, result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The app's own loss, continued, and the best learned one on val; what is missing is left out."""
    key = f"val.{result['headline']}"
    rows = {row["loss"]: row for row in result["rows"][1:] if key in row["mean"] and key not in row["undefined"]}
    learned = [name for name, row in rows.items() if row["runs"][0]["fidelity"] is not None]
    choose = max if result["higher_is_better"] else min
    best = choose(learned, key=lambda name: rows[name]["mean"][key], default=None)
    return {name: rows[name] for name in (work.app.baselines[0], best) if name is not None and name in rows}


def _model(work: Work, folder: Path) -> nn.Module:
    model = work.new_model()
    load_weights(folder / "model.safetensors", model)
    return model


def _nested(numbers: Mapping[str, float]) -> dict[str, Any]:
    """`{"iou.car": 1}` as `{"iou": {"car": 1}}`."""
    nested: dict[str, Any] = {}
    for name, value in numbers.items():
        table, _, part = name.partition(".")
        if part:
            nested.setdefault(table, {})[part] = value
        else:
            nested[table] = value
    return nested
