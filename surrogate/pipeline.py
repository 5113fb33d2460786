"""The glue: stages over an app, a recipe and a run folder. Each makes what is missing first, and nothing twice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surrogate import approximator, fitted
from surrogate import finetune as finetuning
from surrogate import fit as fitting
from surrogate.alone import alone
from surrogate.atomic import sweep, sweep_below
from surrogate.batches import seed_of
from surrogate.curves import draw_curves, history
from surrogate.describe import apps, doctor, inspect, measures
from surrogate.drift import Agreement
from surrogate.errors import UsageError, nearest
from surrogate.fidelity import verdict
from surrogate.fidelity_figure import draw_fidelity
from surrogate.heldout import Analytic
from surrogate.loss import SurrogateLoss
from surrogate.progress import Progress, Stage
from surrogate.recipe import FitRecipe
from surrogate.recorded import is_recorded, opened, record, replay
from surrogate.refresh import Refresh
from surrogate.rundir import claim_surrogate, read_json, write_json
from surrogate.store import StatsStore
from surrogate.weights import load_weights, save_weights
from surrogate.work import Request, Work, check_run, claim_finetune, claim_run, open_work

__all__ = [
    "Request",
    "apps",
    "collect",
    "doctor",
    "evaluate",
    "finetune",
    "fit",
    "inspect",
    "measures",
    "train",
]


def train(request: Request) -> Stage[dict[str, Any]]:
    """Trains the baseline model with the app's own loss, or takes the weights that the recipe names."""
    return (yield from _claimed(open_work(request), _train))


def collect(request: Request) -> Stage[dict[str, Any]]:
    """Records statistics of the baseline model; trains it first when it is missing."""
    return (yield from _claimed(open_work(request), _collect))


def fit(request: Request) -> Stage[dict[str, Any]]:
    """Fits the surrogate; trains and collects first when those are missing."""
    return (yield from _claimed(open_work(request), _fit))


def finetune(request: Request) -> Stage[dict[str, Any]]:
    """Finetunes the baseline model through the surrogate, or through a hand-made loss by name."""
    work = open_work(request)
    settings = work.recipe.finetune
    check_loss(settings.loss, work)
    folder = work.run.finetune(settings.loss)
    check_run(work)
    with (yield from alone(work.run.root)):
        claim_run(work)
    with (yield from alone(folder)):
        claim_finetune(work, folder)  # told before the hours that what is missing may take, as is this:
    if not _is_finetuned(work):
        if settings.learned and settings.surrogate:
            fitted.trusted(work, work.loss_surrogate)
        yield from _claimed(work, _fit if settings.learned and not settings.surrogate else _train)
        with (yield from alone(folder)):
            claim_finetune(work, folder)
            if not _is_finetuned(work):
                sweep_below(folder)
                write_json(work.run.result(settings.loss), (yield from _tuned(work, folder)))
    return _finetuned(work)


def check_loss(loss: str, work: Work) -> None:
    """Raises `UsageError` where `--loss` names what the app does not have, what cannot be made, or one loss twice."""
    names, known = loss.split("+"), ["surrogate", *work.app.baselines]
    for name in names:
        if ":" in name:
            work.hand_made(name)  # to see that it can be made
        elif name not in known:
            raise UsageError(
                f"--loss {loss}: no such loss as {name!r}; {nearest(name, known)} (or your own, as pkg.mod:factory)"
            )
        if names.count(name) > 1:
            raise UsageError(f"--loss {loss}: {name} is in it twice; expected different losses")


def evaluate(request: Request, *, split: str = "test") -> Stage[dict[str, Any]]:
    """True numbers of the finetuned model, or of the baseline model when there is none (`finetune.loss` = "none")."""
    work = open_work(request)
    loss = work.recipe.finetune.loss
    split = work.test_split if split == "test" else split
    folder = work.run.finetune(loss)
    finetuned = (folder / "model.safetensors").exists()
    if "finetune.loss" in dict(request.overrides) and loss != "none" and not finetuned:
        raise UsageError(f"{folder}: not there; make it with `surrogate finetune --run {work.run.root} --loss {loss}`")
    before = work.baseline_model()
    models = {"before": before}
    scores = {"before": (yield from work.scores(before, split))}
    if finetuned:
        if not work.run.result(loss).exists():
            yield Progress(
                "evaluate", 0, 1, message=f"evaluate: {folder} is not finished; its best epoch so far counts"
            )
        after = work.new_model()
        load_weights(folder / "model.safetensors", after)
        models["after"], scores["after"] = after, (yield from work.scores(after, split))
    try:
        figures = work.task.figures(work.run.root, models, scores)
    except OSError as error:  # the numbers of a run that may only be read are worth having too
        figures = []
        yield Progress("evaluate", 1, 1, message=f"evaluate: no figures ({error})")
    return {
        "run": str(work.run.root),
        "model": str(folder if "after" in models else work.run.model),
        "split": split,
        "spec": work.spec,
        "metrics": list(scores.values())[-1],
        "figures": [str(path) for path in figures],
    }


_REPORTED = {
    "test": "test, val beside it",
    "val": "val (the data has no test split; checkpoints are chosen by val too)",
}
"""How the split of the reported numbers is told."""


def _claimed(work: Work, stage: Callable[[Work], Stage[dict[str, Any]]]) -> Stage[dict[str, Any]]:
    """A stage in the run folder, with no other process in it."""
    check_run(work)
    with (yield from alone(work.run.root)):
        claim_run(work)
        return (yield from stage(work))


def _train(work: Work) -> Stage[dict[str, Any]]:
    folder, settings = work.run.model, work.recipe.train
    weights, report = folder / "model.safetensors", folder / "train.json"
    if not (report.exists() and weights.exists()):
        sweep(work.run.root)
        sweep_below(folder)
        yield Progress("train", 0, settings.epochs, message=f"data: {work.task.about}")
        model = work.model()
        if work.recipe.model.weights:
            validation = yield from work.scores(model, "val")
            save_weights(weights, model)
            result = {"epoch": 0, "validation": validation, "epochs": 0}
        else:
            result = yield from finetuning.finetune(
                work.engine,
                model,
                work.usual_loss(),
                work.task.dataset("train"),
                validate=lambda m: work.scores(m, "val"),
                select=work.baseline_selection(),
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
    pair = work.run.stats, work.run.moves
    if not is_recorded(*pair):
        work.run.fit_state.unlink(missing_ok=True)  # of a fit to rows that are gone
        yield from record(work, work.baseline_model(), *pair)
    store, _ = opened(work, *pair)
    counts = torch.zeros(len(store.spec.regimes), dtype=torch.int64)
    for shard in store.shards():
        counts += torch.bincount(shard.regime.long(), minlength=len(counts))
    return {
        "run": str(work.run.root),
        "store": str(store.folder),
        "rows": store.rows,
        "undefined": store.undefined,
        "columns": list(store.spec.columns),
        "measure": store.spec.measure,
        "level": store.spec.level,
        "regimes": dict(zip(store.spec.regimes, counts.tolist(), strict=True)),
    }


def _fitted(
    work: Work, settings: FitRecipe, rows: list[StatsStore], moved: list[StatsStore], state: Path
) -> Stage[tuple[approximator.Surrogate, dict[str, Any]]]:
    """A surrogate fitted to stores of rows and of moves, and its fidelity."""
    return fitting.fit(
        rows,
        moved,
        settings=settings,
        seed=work.recipe.seed,
        device=work.engine.device,
        state=state,
        analytic=_analytic(work),
        directions=work.measure.directions if settings.monotone else (),
    )


def _analytic(work: Work) -> Callable[[Tensor], Tensor] | None:
    """The loss that the hand-made soft form of the metric sees in statistics, where there is one."""
    measure, soft = work.measure, work.measure.analytic
    return None if soft is None else lambda stats: measure.loss_of(soft(stats))


def _fit(work: Work) -> Stage[dict[str, Any]]:
    if not (yield from _is_fitted(work)):
        sweep(work.run.root)
        write_json(work.run.fit_report, (yield from _refit(work)))
    work.run.fit_state.unlink(missing_ok=True)
    return read_json(work.run.fit_report)


def _is_fitted(work: Work) -> Stage[bool]:
    """Whether there is a surrogate that this run can use; says why where one is of no use any more."""
    if not work.run.fit_report.exists():
        return False
    mismatch = fitted.mismatch(work, work.run.surrogate)
    if mismatch is not None:
        yield Progress("fit", 0, work.recipe.fit.epochs, message=f"fit: made again: {mismatch}")
    return mismatch is None


def _refit(work: Work) -> Stage[dict[str, Any]]:
    """Makes the run's surrogate, and gives its fidelity and how it was fitted."""
    yield from _collect(work)
    rows, moved = opened(work, work.run.stats, work.run.moves)
    surrogate, fidelity = yield from _fitted(work, work.recipe.fit, [rows], [moved], work.run.fit_state)
    work.run.fit_report.unlink(missing_ok=True)  # one of another surrogate must not stand beside this one
    approximator.save(surrogate, fitted.card(work, surrogate, fidelity), work.run.surrogate)
    yield Progress("fit", work.recipe.fit.epochs, work.recipe.fit.epochs, message=f"fit: {verdict(fidelity)}")
    report, figures = work.task.report_fit(surrogate, work.run.root)
    held = fitting.unseen([rows], [moved], settings=work.recipe.fit, seed=work.recipe.seed)
    soft = _analytic(work)
    models = {"surrogate": surrogate, **({"hand-made soft form": Analytic(soft)} if soft else {})}
    figures = [*draw_fidelity(work.run.root / "fidelity.png", held, models), *figures]
    return {
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


def _is_finetuned(work: Work) -> bool:
    loss = work.recipe.finetune.loss
    return work.run.result(loss).exists() and (work.run.finetune(loss) / "model.safetensors").exists()


def _finetuned(work: Work) -> dict[str, Any]:
    """What the finetuning has come to, and beside it the run's others."""
    loss, results = work.recipe.finetune.loss, work.run.results()
    return {
        "run": str(work.run.root),
        "loss": loss,
        "checkpoint": str(work.run.finetune(loss) / "model.safetensors"),
        **results[loss],
        "spec": f"{work.spec}; split={_REPORTED[work.test_split]}",
        "losses": {name: {"before": entry["before"], "after": entry["after"]} for name, entry in results.items()},
    }


def _tuned(work: Work, folder: Path) -> Stage[dict[str, Any]]:
    """Trains, and gives the numbers before and after."""
    settings = work.recipe.finetune
    loss, adapt, beside = _loss(work, folder)
    before = work.baseline_model()
    after = work.new_model() if settings.from_scratch else copy.deepcopy(before)
    yield from finetuning.finetune(
        work.engine,
        after,
        finetuning.MixedLoss(loss, work.usual_loss(), mix=settings.ce_mix),
        work.task.dataset("train"),
        validate=lambda m: work.scores(m, "val", beside()),
        select=work.selection(),
        settings=settings,
        seed=seed_of(work.recipe.seed, 1),
        folder=folder,
        adapt=adapt,
        keep_start=not settings.from_scratch,
    )
    models, scores = {"before": before, "after": after}, {}
    for name, model in models.items():
        scores[name] = yield from work.scores(model, "test")
        scores[name]["val"] = _scalars((yield from work.scores(model, "val")))
    figures = [*_curve(work, folder, scores["before"]["val"]), *work.task.figures(folder, models, scores)]
    return {**scores, "figures": [str(path) for path in figures]}


def _curve(work: Work, folder: Path, start: Mapping[str, Any]) -> list[Path]:
    """What checkpoints were chosen by, on val, from the start on; a new model has none."""
    settings, key = work.recipe.finetune, work.selection().key
    epochs, first = (history(folder), 1) if settings.from_scratch else ([start, *history(folder)], 0)
    points = 100 if max(map(abs, work.measure.bounds)) <= 1.0 else 1
    return draw_curves(folder / "curve.png", {settings.loss: [epochs]}, key=key, factor=points, first=first)


def _loss(work: Work, folder: Path) -> tuple[nn.Module, finetuning.Adapt | None, Callable[[], list[Agreement]]]:
    """The loss that finetuning asks for, what is done about it after an epoch, and what to count beside the scores."""
    settings = work.recipe.finetune
    if not settings.learned:
        return _mean(work, None), None, list
    path = work.loss_surrogate
    surrogate = fitted.trusted(work, path)
    claim_surrogate(folder / "surrogate.json", path, fix=f"delete {folder}")
    refresh = Refresh(
        work.measure,
        surrogate,
        settings,
        folder,
        stores=replay(work, path),
        collect=lambda model, stats, moved: record(work, model, stats, moved),
        opened=lambda stats, moved: opened(work, stats, moved),
        fit=lambda rows, moved, state: _fitted(work, _alike(work.recipe.fit, surrogate), rows, moved, state),
        scores=lambda model, agreement: work.scores(model, "val", [agreement]),
    )
    return _mean(work, surrogate), refresh, lambda: [Agreement(work.measure, surrogate)]


def _alike(settings: FitRecipe, surrogate: approximator.Surrogate) -> FitRecipe:
    """Settings for a network like that of a surrogate, which may come from another run: its weights go there."""
    network = {name: getattr(surrogate, name) for name in ("depth", "width", "activation")}
    return settings.model_copy(update={"columns": surrogate.inputs, "monotone": bool(surrogate.directions), **network})


def _mean(work: Work, surrogate: nn.Module | None) -> nn.Module:
    """The losses that finetuning names, as one."""
    losses = [
        SurrogateLoss(work.measure, surrogate).to(work.engine.device)
        if surrogate is not None and name == "surrogate"
        else work.hand_made(name)
        for name in work.recipe.finetune.losses
    ]
    return losses[0] if len(losses) == 1 else finetuning.MeanLoss(losses)


def _scalars(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if not isinstance(value, Mapping)}
