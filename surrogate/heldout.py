"""What a fit has not seen: rows and moves of the samples held out of it, and how a surrogate does on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from surrogate.fidelity import contrary, fidelity, foretold, slope_size, wrong_sign
from surrogate.moves import AWAY, KINDS, SMALL
from surrogate.shard import Rows


class Analytic(nn.Module):
    """The hand-made soft form of a metric in the place of a surrogate: `(R, F)` statistics to `(R,)` losses."""

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._loss = loss

    def forward(self, stats: Tensor) -> Tensor:
        return self._loss(stats)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows and moves of the same samples."""

    rows: Rows
    moves: Rows
    """Statistics, how fast they change along the move, and its change under noise side by side; see
    `surrogate.collect`. `value` is the change of the true loss, `regime` a place in `KINDS`."""
    regimes: tuple[str, ...]

    @property
    def small(self) -> Tensor:
        """`(M,)` bool: the moves that the certificate is about."""
        return torch.isin(self.moves.regime, torch.tensor(SMALL, dtype=self.moves.regime.dtype))

    def foretold(self, surrogate: nn.Module) -> Tensor:
        """`(M,)` change of the loss that the slope of a surrogate foretells of each move."""
        width = self.rows.stats.shape[1]
        return foretold(surrogate, self.moves.stats[:, :width], self.moves.stats[:, width : 2 * width])


def held_out(rows: Rows, moves: Rows, heldout: Tensor, regimes: tuple[str, ...]) -> HeldOut:
    """Those of the rows in `heldout`, `(N,)` bool, and the moves of their samples."""
    unseen = torch.isin(moves.sample, torch.unique(rows.sample[heldout]))
    return HeldOut(_part(rows, heldout), _part(moves, unseen), regimes)


def report(surrogate: nn.Module, held: HeldOut) -> dict[str, Any]:
    """Fidelity over all and by regime, the share of wrong signs, of small moves (and of how many: those that changed
    the metric) and by kind, and of small moves that the metric itself goes against; and by kind the size of the slope
    as a share of what it should be."""
    rows, moves, small = held.rows, held.moves, held.small
    with torch.no_grad():
        predicted = surrogate(rows.stats)
    slope = held.foretold(surrogate)

    def agreement(of: Tensor) -> dict[str, Any]:
        return fidelity(predicted[of], rows.value[of], rows.sample[of])

    def by_move(number: Callable[[Tensor, Tensor], float | None]) -> dict[str, float | None]:
        kinds = {kind: moves.regime == n for n, kind in enumerate(KINDS)}
        return {kind: number(slope[of], moves.value[of]) for kind, of in kinds.items()}

    return {
        **fidelity(predicted, rows.value, rows.sample),
        "wrong_sign": wrong_sign(slope[small], moves.value[small]),
        "n_moves": int((moves.value[small] != 0).sum()),
        "contrary": contrary(moves.value[small], moves.regime[small] == AWAY),
        "by_regime": {name: agreement(rows.regime == n) for n, name in enumerate(held.regimes)},
        "wrong_sign_by_move": by_move(wrong_sign),
        "slope_size_by_move": by_move(slope_size),
    }


def _part(rows: Rows, mask: Tensor) -> Rows:
    return Rows(*(getattr(rows, field)[mask] for field in Rows.__slots__))
