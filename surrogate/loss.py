"""The learned loss: a measure's soft statistics through a frozen surrogate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from surrogate import approximator, plugins
from surrogate.additive import pooled_sums, sums_of
from surrogate.errors import DataError
from surrogate.protocols import Measure

_DECAY = 0.9
"""Weight of the sums of a batch next to those of the batch after it: about ten batches count."""


class SurrogateLoss(nn.Module):
    """Called like `nn.CrossEntropyLoss`: `loss(outputs, targets)` is a scalar, the mean predicted loss of the rows.

    Undefined rows are left out; when all are, the loss is 0 and so is its gradient. A NaN or inf in the outputs (of a
    measure that has sums: in those) gives NaN. Statistics and surrogate run in fp32, also under autocast. The surrogate
    is frozen: only the outputs get a gradient (NeuroIoU, Algorithm 1, Eq. 5).
    """

    def __init__(self, measure: Measure, surrogate: nn.Module) -> None:
        super().__init__()
        self.measure = measure
        self.surrogate = surrogate.requires_grad_(False).eval()
        self._card: approximator.Card | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the batches so far."""
        self._sums: Tensor | None = None
        self._weight = torch.zeros((), dtype=torch.float64)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A loss from a file that `surrogate fit` wrote, on the CPU; `.to(device)` moves it.

        Raises:
            DataError: the file is missing, damaged, or was fitted for another version of its measure.
            UsageError: its measure is not installed.
        """
        surrogate, card = approximator.load(Path(path))
        measure = _measure_of(card)
        check_matches(card, measure, path=Path(path))
        loss = cls(measure, surrogate)
        loss._card = card
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Of a loss from a file without its measure, which is functions: its name brings it back."""
        return self.__dict__ if self._card is None else {**self.__dict__, "measure": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self._card is not None:
            self.measure = _measure_of(self._card)

    def train(self, mode: bool = True) -> Self:
        """Keeps the surrogate in evaluation mode, whatever the training loop asks for."""
        super().train(mode)
        self.surrogate.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keeps the surrogate in fp32 (or wider) where a parent module is cast, as by `model.bfloat16()`."""

        def kept(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            narrowed = new.dtype != torch.promote_types(new.dtype, tensor.dtype)
            return tensor.to(new.device) if narrowed else new

        module: Self = super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return module

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets as the measure takes them, to a scalar."""
        with torch.autocast(outputs.device.type, enabled=False):
            if not self.measure.takes_half:
                outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            stats, undefined, unsound = self._rows(outputs, targets)
            predicted: Tensor = self.surrogate(stats.masked_fill(undefined.unsqueeze(1), 0.0))
            total = predicted.masked_fill(undefined, 0.0).sum()
            return total / (~undefined).sum().clamp_min(1) + unsound.to(total)

    def _rows(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(R, F)` statistics, `(R,)` bool which rows are undefined, and `()`: 0, or NaN where the outputs are unsound.

        Undefined rows are NaN and so is a broken model: the second must not pass for the first. Sums tell, where there
        are some, and are few; else all outputs are looked through.
        """
        if self.measure.level != "dataset" and self.measure.additive is None:
            stats = self.measure.stats(outputs, targets)
            return stats, stats.isnan().all(1), _unsound(outputs)
        additive = sums_of(self.measure)
        sums = pooled_sums(additive, outputs, targets, self.measure.level)
        unsound = _unsound(sums)
        if self.measure.level == "dataset":
            sums = self._running(sums)
        return additive.stats(sums), additive.metric(sums.detach()).isnan(), unsound

    def _running(self, sums: Tensor) -> Tensor:
        """`(k, A)` sums of the batches so far, this one included, with its gradient."""
        now = sums.detach()
        before, weight_before = torch.zeros_like(now), now.new_zeros((), dtype=torch.float64)
        if self._sums is not None:  # moved with them: a weight on the CPU would be waited for in every step
            before, weight_before = self._sums.to(now), self._weight.to(now.device)
        total, weight = now + _DECAY * before, 1.0 + _DECAY * weight_before
        if self.training and torch.is_grad_enabled():
            sound = now.isfinite().all()  # a batch with a NaN is left out, or all batches after it would be NaN
            self._sums = torch.where(sound, total, before)
            self._weight = torch.where(sound, weight, weight_before)
        return total / weight + (sums - now)

    def get_extra_state(self) -> Tensor:
        """What is remembered, for a checkpoint: `(k + 1, A)` float64, the weight in the last row; nothing is `(0,)`."""
        if self._sums is None:
            return torch.zeros(0)
        sums = self._sums.double()  # as the weight is: in float32 a resumed run would end in other bytes
        return torch.cat([sums, self._weight.to(sums).expand_as(sums[:1])])

    def set_extra_state(self, state: Tensor) -> None:
        """Puts back what `get_extra_state` gave."""
        self.reset()
        if len(state):
            self._sums, self._weight = state[:-1], state[-1, 0].double()


def _measure_of(card: approximator.Card) -> Measure:
    return plugins.load_measure(card.app, card.measure, facts=card.facts, options=card.options)


def _unsound(numbers: Tensor) -> Tensor:
    """`()`: NaN where a number is NaN or inf, or all are -inf; else 0, for a logit of -inf masks a class."""
    return 0.0 * numbers.detach().amax() if numbers.numel() else numbers.new_zeros(())


def check_matches(card: approximator.Card, measure: Measure, *, path: Path) -> None:
    """Raises `DataError` where a surrogate was fitted for another version, level or columns of its measure."""
    for what, found, expected in (
        ("version", card.version, measure.version),
        ("level", card.level, measure.level),
        ("columns", card.columns, measure.columns),
    ):
        if found != expected:
            raise DataError(
                f"{path}: fitted for {what} {found} of measure {card.measure!r}, installed is {expected}; fit again"
            )
