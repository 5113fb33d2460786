"""The file of a fitted surrogate: what a run writes of it, and whether it is one that a run may train through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surrogate.approximator import Card, Surrogate, load
from surrogate.errors import DataError, QualityError
from surrogate.fidelity import against_truth
from surrogate.loss import check_matches
from surrogate.work import Work


def card(work: Work, surrogate: Surrogate, fidelity: dict[str, Any]) -> Card:
    """What the file says of a surrogate that this run has fitted."""
    return Card(
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
        directions=surrogate.directions,
        fidelity=fidelity,
    )


def mismatch(work: Work, path: Path) -> str | None:
    """Why a file is no surrogate for the data and the measure of this run; None where it is one."""
    try:
        _matching(work, path)
    except DataError as error:
        return str(error)
    return None


def trusted(work: Work, path: Path) -> Surrogate:
    """The surrogate of a file.

    Raises:
        DataError: it is missing, damaged, or was fitted for other data or another measure.
        QualityError: too many of its gradient signs are wrong (see `check_signs`).
    """
    surrogate, found = _matching(work, path)
    check_signs(found.fidelity, allowed=work.recipe.finetune.max_wrong_sign, where=str(path))
    return surrogate


def check_signs(fidelity: Mapping[str, Any], *, allowed: float, where: str) -> None:
    """Raises `QualityError` where a fit has more wrong signs than allowed.

    Undefined is not refused: a model that finds nothing yet has no small move that changes the metric, and the long
    ones that it is fitted to can lead out of there.
    """
    wrong = fidelity.get("wrong_sign")
    if wrong is not None and wrong > allowed:
        floor = fidelity.get("analytic", {}).get("wrong_sign")
        beside = "" if floor is None else f"; the hand-made soft form has {100 * floor:.1f} %"
        beside += against_truth(fidelity)
        raise QualityError(
            f"{where}: {100 * wrong:.1f} % of its gradient signs are wrong (wrong_sign), at most {100 * allowed:.1f} % "
            f"are allowed{beside}; fit it better (docs/fidelity-report.md), or allow it with --set "
            "finetune.max_wrong_sign=1"
        )


def _matching(work: Work, path: Path) -> tuple[Surrogate, Card]:
    surrogate, found = load(path)
    wanted = (work.recipe.app, work.recipe.measure.name)
    if (found.app, found.measure) != wanted:
        raise DataError(
            f"{path}: fitted for measure {found.measure!r} of app {found.app!r}, this run is about {wanted[1]!r} of "
            f"{wanted[0]!r}; fit again"
        )
    for fact, value in found.facts.items():
        if fact in work.task.facts and work.task.facts[fact] != value:
            raise DataError(
                f"{path}: fitted with {fact}={value}, this run has {fact}={work.task.facts[fact]}; "
                "fit again on this data"
            )
    if found.options != work.recipe.measure.options:
        raise DataError(
            f"{path}: fitted with measure settings {found.options}, this run has "
            f"{work.recipe.measure.options}; fit again"
        )
    check_matches(found, work.measure, path=path)
    return surrogate, found
