"""The counts against scikit-learn, and their slopes against what a moved threshold does."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import confusion_matrix

from surrogate_tabular.counts import COLUMNS, SHARPNESS, count_stats, count_sums, hard_counts

COUNTS = len(SHARPNESS)


def outputs_of(margin: torch.Tensor) -> torch.Tensor:
    return torch.stack([-0.5 * margin, 0.5 * margin], 1)


@pytest.fixture
def table() -> tuple[torch.Tensor, torch.Tensor]:
    """Margins of 50,000 samples in float64, one in twenty positive and found in half of the cases."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(50_000, generator=generator) < 0.05).long()
    noise = 2.0 * torch.randn(50_000, generator=generator, dtype=torch.float64)
    return noise + torch.where(targets == 1, 0.0, -4.0), targets


def test_hard_counts_are_those_of_scikit_learn(table: tuple[torch.Tensor, torch.Tensor]) -> None:
    margin, targets = table
    outputs = outputs_of(margin)
    (tn, fp), (fn, tp) = confusion_matrix(targets, outputs.argmax(1))
    assert hard_counts(count_sums(outputs, targets).sum(0))[0].tolist() == [tp, fp, fn, tn]


def test_a_tie_is_told_as_the_first_class() -> None:
    assert hard_counts(count_sums(torch.zeros(1, 2), torch.tensor([1]))[:, 0]).tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_every_sample_is_in_the_soft_counts_once() -> None:
    sums = count_sums(torch.randn(9, 2), torch.randint(2, (9,)))
    torch.testing.assert_close(sums.unflatten(2, (COUNTS + 1, 4)).sum(3), torch.ones(9, 1, COUNTS + 1))


def test_the_sharpest_counts_are_nearly_the_hard_ones(table: tuple[torch.Tensor, torch.Tensor]) -> None:
    margin, targets = table
    sums = count_sums(outputs_of(margin), targets).sum(0)[0]
    torch.testing.assert_close(sums[-8:-4], sums[-4:], rtol=0.01, atol=0.0)


@pytest.mark.parametrize("moved", [1, 0])
def test_slopes_of_sharp_counts_are_what_a_moved_threshold_does(
    table: tuple[torch.Tensor, torch.Tensor], moved: int
) -> None:
    """Each class by itself: the price of a miss beside that of a false alarm is what a metric is about."""
    margin, targets = table
    way = (targets == moved).double()

    def sums(step: float) -> torch.Tensor:
        return count_sums(outputs_of(margin + step * way), targets).sum((0, 1))

    change = (sums(0.2) - sums(-0.2))[-4:] / 0.4
    _, slope = torch.autograd.functional.jvp(
        lambda step: count_sums(outputs_of(margin + step * way), targets).sum((0, 1)),
        torch.zeros((), dtype=torch.float64),
        torch.ones((), dtype=torch.float64),
    )
    for sharp in (slope[4:8], slope[8:12]):
        torch.testing.assert_close(sharp, change, rtol=0.15, atol=1e-9)


def test_statistics_are_shares_and_a_row_without_a_sample_is_zero() -> None:
    stats = count_stats(torch.stack([torch.arange(1.0, 17.0), torch.zeros(16)]))
    assert stats.shape == (2, len(COLUMNS))
    blocks = stats[0].unflatten(0, (COUNTS, 4))
    torch.testing.assert_close(blocks[:, :3].sum(1), torch.ones(COUNTS))
    torch.testing.assert_close(blocks[0], torch.tensor([1 / 6, 2 / 6, 3 / 6, 4 / 10]))
    assert not stats[1].any()
