"""Fitting the surrogate again while it trains a model: fresh rows of the model as it is, next to all the old ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from surrogate.approximator import Surrogate
from surrogate.drift import FEW, KEY, Agreement, drifted
from surrogate.errors import DivergedError
from surrogate.fitted import check_signs
from surrogate.progress import Progress, Stage
from surrogate.protocols import Measure
from surrogate.recipe import FinetuneRecipe
from surrogate.rundir import write_json
from surrogate.store import StatsStore

Collect = Callable[[nn.Module, Path, Path], Stage[None]]
"""Records rows and moves of a model into two stores."""
Opened = Callable[[Path, Path], tuple[StatsStore, StatsStore]]
"""Both stores, to read, when they are of what this run records; else an error that says so."""
Fit = Callable[[list[StatsStore], list[StatsStore], Path], Stage[tuple[nn.Module, dict[str, Any]]]]
"""Fits a surrogate to stores of rows and of moves; its state is kept in a file."""
Scores = Callable[[nn.Module, Agreement], Stage[dict[str, Any]]]
"""Validation scores of a model with the agreement beside them."""


class Refresh:
    """What finetuning through a surrogate does after an epoch (see `finetune.Adapt`)."""

    def __init__(
        self,
        measure: Measure,
        surrogate: Surrogate,
        settings: FinetuneRecipe,
        folder: Path,
        *,
        stores: tuple[Path, Path] | None,
        collect: Collect,
        opened: Opened,
        fit: Fit,
        scores: Scores,
    ) -> None:
        """`stores` hold the rows and the moves of the first fit; None where a surrogate's file came without them."""
        self._measure, self._surrogate, self._settings = measure, surrogate, settings
        self._folder, self._stores = folder, stores
        self._collect, self._opened, self._fit, self._scores = collect, opened, fit, scores

    def __call__(self, epoch: int, model: nn.Module, scores: dict[str, Any]) -> Stage[None]:
        """Fits again when it is time, or when the surrogate has drifted.

        Raises:
            DivergedError: it has drifted and is not to be fitted again, or still does not follow.
            QualityError: fitted again, it has too many wrong signs to train through.
            UsageError: the rounds before, left by an interrupted run, are of another measure.
        """
        settings = self._settings
        if epoch == 1 and scores[KEY]["rows"] < FEW:
            message = (
                f"finetune: drift is not watched: val has {scores[KEY]['rows']} of the {FEW} rows that it takes; "
                "in a new run, a smaller train.batch_size makes more of a metric of batches"
            )
            yield Progress("finetune", epoch, settings.epochs, message=message)
        gone = drifted(scores[KEY], least=settings.min_spearman)
        due = isinstance(settings.refresh, int) and epoch % settings.refresh == 0
        if epoch == settings.epochs or not (gone or due):
            return
        if gone and settings.refresh == "never":
            raise DivergedError(self._told(epoch, scores, "let it be fitted again with --refresh auto"))
        yield from self._again(epoch, model, f"Spearman is {scores[KEY]['spearman']:.3f} on val" if gone else "due")
        scores = yield from self._scores(model, Agreement(self._measure, self._surrogate))
        if drifted(scores[KEY], least=settings.min_spearman):
            raise DivergedError(
                self._told(
                    epoch,
                    scores,
                    "it was fitted again in vain: other statistics are needed (docs/fidelity-report.md)",
                )
            )

    def _again(self, epoch: int, model: nn.Module, why: str) -> Stage[None]:
        yield Progress("refresh", 0, 1, message=f"refresh after epoch {epoch}: {why}; collecting and fitting again")
        fresh = self._folder / "refresh" / str(epoch)
        was_training = model.training
        yield from self._collect(model, fresh / "stats", fresh / "moves")
        model.train(was_training)
        rounds = sorted((int(path.name) for path in fresh.parent.iterdir() if path.name.isdecimal()), reverse=True)
        kept = [fresh.parent / str(number) for number in rounds if number <= epoch]
        pairs = [(path / "stats", path / "moves") for path in kept] + ([self._stores] if self._stores else [])
        rows, moves = map(list, zip(*(self._opened(*pair) for pair in pairs), strict=True))
        fitted, fidelity = yield from self._fit(rows, moves, fresh / "fit-state.safetensors")
        (fresh / "fit-state.safetensors").unlink(missing_ok=True)
        write_json(fresh / "fit.json", fidelity)
        where = f"refresh after epoch {epoch} (kept: {self._folder / 'model.safetensors'})"
        check_signs(fidelity, allowed=self._settings.max_wrong_sign, where=where)
        self._surrogate.load_state_dict(fitted.state_dict())
        spearman = fidelity["spearman"]
        yield Progress(
            "refresh",
            1,
            1,
            message=f"refresh after epoch {epoch}: fitted to {sum(store.rows for store in rows)} rows, "
            f"Spearman {'undefined' if spearman is None else format(spearman, '.3f')}",
        )

    def _told(self, epoch: int, scores: dict[str, Any], fix: str) -> str:
        return (
            f"finetune: the surrogate does not follow its metric any more in epoch {epoch} (Spearman "
            f"{scores[KEY]['spearman']:.3f} on val, finetune.min_spearman is {self._settings.min_spearman}); "
            f"kept: {self._folder / 'model.safetensors'}; {fix}"
        )
