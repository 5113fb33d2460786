"""The standard statistics: counts by hand, limits where soft is hard, direction of moves, gradients, odd cases."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, multilabel_confusion_matrix, roc_auc_score
from torch import Tensor

from surrogate.additive import additive_measure
from surrogate.statistics import (
    CONFUSION_COLUMNS,
    CURVE_COLUMNS,
    KNOTS,
    PROBABILITY_COLUMNS,
    class_score,
    confusion_additive,
    confusion_stats,
    confusion_sums,
    curve_stats,
    histogram_sums,
    probability_stats,
)
from surrogate.testing import check_measure


def example(classes: int, *size: int, samples: int = 6) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, classes, *size, generator=draw, dtype=torch.float64)
    return logits, torch.randint(classes, (samples, *size), generator=draw)


def binary(samples: int = 200) -> tuple[Tensor, Tensor]:
    """`(B,)` scores and truth, overlapping."""
    draw = torch.Generator().manual_seed(2)
    positive = torch.rand(samples, generator=draw) < 0.2
    return 2 * torch.randn(samples, generator=draw, dtype=torch.float64) + 3.0 * positive - 1.5, positive


# --- confusion ---


@pytest.mark.parametrize("size", [(), (4, 5)])
def test_hard_counts_are_those_of_scikit_learn(size: tuple[int, ...]) -> None:
    logits, labels = example(3, *size)
    found = confusion_sums(logits, labels)[:, :, 4:].sum(0)
    matrices = multilabel_confusion_matrix(labels.flatten(), logits.argmax(1).flatten(), labels=[0, 1, 2])
    expected = torch.tensor([[m[1, 1], m[0, 1], m[1, 0], m[0, 0]] for m in matrices]).double()
    assert torch.equal(found, expected)


def test_soft_counts_weigh_each_element_by_its_class_against_the_rest() -> None:
    logits, labels = example(3)
    probability, expected = logits.softmax(1), torch.zeros(6, 3, 4, dtype=torch.float64)
    for b in range(6):
        for k in range(3):
            p = probability[b, k]
            predicted, true = int(logits[b].argmax()) == k, int(labels[b]) == k
            group = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[predicted, true]
            expected[b, k, group] = p if predicted else 1 - p
    assert torch.allclose(confusion_sums(logits, labels)[:, :, :4], expected)


def test_soft_counts_of_a_confident_model_are_the_hard_ones() -> None:
    logits, labels = example(3, 4, 5)
    sums = confusion_sums(1e4 * logits, labels)
    assert torch.allclose(sums[:, :, :4], sums[:, :, 4:], atol=1e-6)


def test_a_small_step_to_the_truth_raises_successes_and_lowers_errors() -> None:
    logits, labels = example(3, samples=40)
    towards = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
    before, after = (confusion_sums(logits + step * towards, labels)[:, :, :4] for step in (0.0, 1e-6))
    change = (after - before).amax((0, 1)), (after - before).amin((0, 1))
    tp, fp, fn, tn = range(4)
    for success, error in ((tp, fp), (tn, fn)):
        assert float(change[0][success]) > 0 <= float(change[1][success])
        assert float(change[1][error]) < 0 >= float(change[0][error])


def test_what_is_said_of_a_class_does_not_depend_on_how_rare_it_is() -> None:
    """Nor on the size of the image: a thousand times the TN change the column of TN alone."""
    counts = torch.tensor([[3.0, 1.0, 4.0, 8.0]])
    rare = counts * torch.tensor([1.0, 1.0, 1.0, 1000.0])
    usual, beside = (confusion_stats(torch.cat([0.5 * n, n], 1))[0] for n in (counts, rare))
    assert usual[:4].tolist() == pytest.approx([3 / 8, 1 / 8, 4 / 8, 8 / 16])
    assert usual[4:].tolist() == [0.5] * 4
    assert beside.tolist() == pytest.approx([*usual[:3].tolist(), 8000 / 8008, *usual[4:].tolist()])


def test_ignored_elements_are_in_no_sum_and_have_no_gradient() -> None:
    logits, labels = example(3, 4, 5)
    labels[:, 0] = 255
    leaf = logits.clone().requires_grad_()
    sums = confusion_sums(leaf, labels, ignore_index=255)
    assert torch.allclose(sums, confusion_sums(logits[:, :, 1:], labels[:, 1:]))
    (gradient,) = torch.autograd.grad(sums.square().sum(), leaf)
    assert not gradient[:, :, 0].any()
    assert gradient[:, :, 1:].any()


def test_a_count_metric_passes_the_contract_of_a_measure_at_every_level() -> None:
    def recall(counts: Tensor) -> Tensor:
        return counts[:, 0] / (counts[:, 0] + counts[:, 2])

    logits, labels = example(3, 4, 5)
    labels[0] = 1  # class 0 is absent: undefined
    perfect = torch.zeros_like(logits).scatter_(1, labels.unsqueeze(1), 12.0)
    for level in ("sample", "batch", "dataset"):
        measure = additive_measure(confusion_additive(recall), CONFUSION_COLUMNS, level=level)
        check_measure(measure, logits.float(), labels, perfect=perfect.float())


# --- histograms ---


def test_scores_are_log_odds_of_a_class_against_the_rest() -> None:
    logits, _ = example(4)
    p = logits.softmax(1)
    for k in range(4):
        assert torch.allclose(class_score(logits, k), (p[:, k] / (1 - p[:, k])).log())
    two = logits[:, :2].half()
    assert class_score(two).dtype == torch.float32
    assert torch.equal(class_score(two), two[:, 1].float() - two[:, 0].float())


def test_a_histogram_holds_every_element_once_between_its_two_knots() -> None:
    scores = torch.tensor([[-math.tan(1.5), -1.0, 0.0], [0.0, 1e9, -1e9]], dtype=torch.float64)
    positive = torch.tensor([[True, False, True], [False, False, True]])
    sums = histogram_sums(scores, positive)
    assert sums.shape == (2, 1, 2 * KNOTS)
    assert torch.allclose(sums[:, 0, :KNOTS].sum(1), torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert torch.allclose(sums[:, 0, KNOTS:].sum(1), torch.tensor([1.0, 2.0], dtype=torch.float64))
    middle = sums[1, 0, KNOTS:].view(2, -1)[0]  # the last knot of the lower half
    assert float(middle[-1]) == pytest.approx(0.5)
    knots = torch.linspace(-1, 1, KNOTS, dtype=torch.float64)
    squeezed = scores / (1 + scores.abs())
    assert torch.allclose(sums[0, 0, :KNOTS] @ knots, squeezed[0][positive[0]].sum())


def test_unknown_elements_are_in_no_histogram() -> None:
    scores, positive = binary()
    known = torch.arange(200) % 2 == 0
    found = histogram_sums(scores[None], positive[None], known=known[None])
    assert torch.allclose(found, histogram_sums(scores[None, known], positive[None, known]))


def test_sharp_areas_are_the_areas_under_the_curves() -> None:
    scores, positive = binary(2000)
    stats = dict(
        zip(CURVE_COLUMNS, curve_stats(histogram_sums(scores[None], positive[None])[0])[0].tolist(), strict=True)
    )
    assert stats["positives"] == pytest.approx(positive.double().mean().item())
    assert stats["roc_area_0.5"] == pytest.approx(roc_auc_score(positive, scores), abs=0.005)
    assert stats["pr_area_0.5"] == pytest.approx(average_precision_score(positive, scores), abs=0.02)
    top = positive[scores.argsort(descending=True)[:200]].double().sum() / positive.double().sum()
    assert stats["found_in_top_0.1"] == pytest.approx(float(top), abs=0.05)


def test_moments_and_tails_of_each_class_are_those_of_its_probabilities() -> None:
    scores, positive = binary(2000)
    sums = histogram_sums(scores[None], positive[None])[0]
    found = dict(zip(PROBABILITY_COLUMNS, probability_stats(sums)[0].tolist(), strict=True))
    assert found["positives"] == pytest.approx(positive.double().mean().item())
    squeezed = (scores / (1 + scores.abs()) + 1) / 2 * (KNOTS - 1)
    for side, group in (("pos", positive), ("neg", ~positive)):
        probability = scores[group].sigmoid()
        assert found[f"{side}_mean"] == pytest.approx(float(probability.mean()), abs=1e-3)
        assert found[f"{side}_square"] == pytest.approx(float(probability.square().mean()), abs=1e-3)
        for knot in range(16, KNOTS, 16):
            share = float((squeezed[group] > knot - 0.5).double().mean())
            assert found[f"{side}_above_{knot}"] == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("stats", [curve_stats, probability_stats])
def test_gradients_are_right_and_finite_without_a_class_too(stats) -> None:
    scores, positive = binary(30)
    for truth in (positive, torch.zeros_like(positive), torch.ones_like(positive)):
        leaf = scores.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda s, y=truth: stats(histogram_sums(s[None], y[None])[0]), leaf)
        assert bool(stats(histogram_sums(scores[None], truth[None])[0]).isfinite().all())


def test_better_ranked_scores_raise_every_area() -> None:
    scores, positive = binary()
    apart = scores + torch.where(positive, 0.5, -0.5)
    before, after = (curve_stats(histogram_sums(s[None], positive[None])[0])[0] for s in (scores, apart))
    assert bool((after[1:] > before[1:]).all())


def test_sums_add_up() -> None:
    scores, positive = binary()
    alone = histogram_sums(scores[:, None], positive[:, None]).sum(0)
    assert torch.allclose(alone, histogram_sums(scores[None], positive[None])[0])
    assert confusion_stats(torch.zeros(1, 8)).tolist() == [[0.0] * 8]


def test_a_broken_score_stays_broken() -> None:
    sums = histogram_sums(torch.tensor([[math.nan, 1.0]]), torch.tensor([[True, False]]))
    assert bool(sums.isnan().any())
