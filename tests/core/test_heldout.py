"""The report of a surrogate on what was held out: which rows and moves are in which number, and the picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from surrogate.fidelity_figure import draw_fidelity
from surrogate.heldout import Analytic, HeldOut, held_out, report
from surrogate.moves import KINDS
from surrogate.shard import Rows

REGIMES = ("model", "noisy")


def truth(stats: Tensor) -> Tensor:
    """A loss in (0, 1) that rises with the first statistic and falls with the last."""
    return torch.sigmoid(2.0 * stats[:, 0] - stats[:, 2])


@pytest.fixture
def rows() -> Rows:
    """A row of each regime for each of 40 samples."""
    stats = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    regime = torch.arange(2, dtype=torch.int16).repeat_interleave(40)
    return Rows(stats, truth(stats), torch.arange(40).repeat(2), regime)


def moves(change: Tensor, kinds: Tensor, samples: Tensor) -> Rows:
    """Moves from the origin along the first statistic, so that the loss should rise."""
    stats, along = torch.zeros(len(change), 3), torch.tensor([1.0, 0.0, 0.0]).expand(len(change), 3)
    return Rows(torch.cat([stats, along, change.unsqueeze(1)], 1), change, samples, kinds.to(torch.int16))


def test_the_certificate_is_about_small_moves(rows: Rows) -> None:
    everything = torch.ones(len(rows.value), dtype=torch.bool)
    kinds = torch.arange(len(KINDS)).repeat(2)

    def signs(wrong: set[str]) -> dict[str, Any]:
        change = torch.tensor([-1.0 if KINDS[kind] in wrong else 1.0 for kind in kinds])
        held = held_out(rows, moves(change, kinds, torch.zeros(8, dtype=torch.int64)), everything, REGIMES)
        return report(Analytic(truth), held)

    assert KINDS == ("towards", "away", "mend", "reach")
    assert (signs({"reach"})["wrong_sign"], signs({"reach"})["n_moves"]) == (0.0, 6)
    assert signs({"reach"})["wrong_sign_by_move"]["reach"] == 1.0
    assert signs({"mend"})["wrong_sign"] == pytest.approx(1 / 3)
    assert signs({"towards", "mend"})["contrary"] == 0.0
    assert signs({"mend", "reach"})["contrary"] == pytest.approx(1 / 3)


def test_the_size_of_slopes_is_told_of_each_kind_by_itself(rows: Rows) -> None:
    """Half of the moves of a kind tip an element over, which changes the loss by twice the slope; of others more."""
    kinds = torch.arange(len(KINDS)).repeat_interleave(4)
    slope = 2.0 * 0.25  # of `truth` at the origin
    tips = torch.tensor([0.0, 2.0 * slope]).repeat(8)
    change = torch.where(kinds == KINDS.index("mend"), 5.0 * tips, tips)
    change[kinds == KINDS.index("reach")] = 0.0
    held = held_out(rows, moves(change, kinds, torch.zeros(16, dtype=torch.int64)), rows.sample >= 0, REGIMES)
    found = report(Analytic(truth), held)["slope_size_by_move"]
    assert found == {
        "towards": pytest.approx(1.0), "away": pytest.approx(1.0), "mend": pytest.approx(0.2), "reach": None
    }  # fmt: skip


def few_held_out(rows: Rows) -> HeldOut:
    """Eight samples, whose moves have the right sign and go against the truth; those of all others the other way."""
    samples = torch.arange(40)
    towards = torch.full((40,), KINDS.index("towards"))
    change = torch.where(samples < 8, 1.0, -1.0)
    return held_out(rows, moves(change, towards, samples), rows.sample < 8, REGIMES)


def test_the_certificate_is_about_samples_held_out(rows: Rows) -> None:
    found = report(Analytic(truth), few_held_out(rows))
    assert (found["wrong_sign"], found["wrong_sign_by_move"]["towards"]) == (0.0, 0.0)
    assert found["contrary"] == 1.0


def test_so_is_the_agreement_in_each_regime(rows: Rows) -> None:
    wrong = rows.sample >= 8  # of samples that were fitted to, which must not count
    rows.value[wrong] = 1.0 - rows.value[wrong]
    found = report(Analytic(truth), few_held_out(rows))
    assert list(found["by_regime"]) == list(REGIMES)
    for numbers in (found, *found["by_regime"].values()):
        assert (numbers["spearman"], numbers["mae"], numbers["n_samples"]) == (
            pytest.approx(1.0),
            pytest.approx(0.0, abs=1e-6),
            8,
        )


@pytest.mark.parametrize("rivals", [0, 1])
def test_the_picture_has_a_panel_for_each_model_and_one_for_moves(rows: Rows, tmp_path: Path, rivals: int) -> None:
    pytest.importorskip("matplotlib")
    models = {"surrogate": Analytic(truth), "soft form": Analytic(lambda stats: stats[:, 0])}
    shown = dict(list(models.items())[: 1 + rivals])
    (drawn,) = draw_fidelity(tmp_path / "fidelity.png", few_held_out(rows), shown)
    with Image.open(drawn) as image:
        width, height = image.size
        right = np.asarray(image.convert("RGB"))[:, width * (1 + rivals) // (2 + rivals) :]
    assert width / height > 1.5 * (1 + 0.5 * rivals)
    assert (right == (0xFB, 0xE3, 0xE4)).all(2).mean() > 0.2  # two quadrants of four


def test_a_picture_of_one_prediction_for_all_rows(rows: Rows, tmp_path: Path) -> None:
    """Which has no rank correlation: of a model that finds nothing yet, say."""
    pytest.importorskip("matplotlib")
    flat = Analytic(lambda stats: 0.0 * stats[:, 0])
    assert draw_fidelity(tmp_path / "fidelity.png", few_held_out(rows), {"surrogate": flat})


def test_a_picture_without_a_move_that_changed_anything(rows: Rows, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    still = moves(torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    held = held_out(rows, still, rows.sample < 8, REGIMES)
    (drawn,) = draw_fidelity(tmp_path / "fidelity.png", held, {"surrogate": Analytic(truth)})
    assert drawn.stat().st_size > 5000


def test_of_many_rows_those_of_every_regime_are_drawn(
    monkeypatch: pytest.MonkeyPatch, rows: Rows, tmp_path: Path
) -> None:
    """They take turns in the store, so that every second one would be of one regime."""
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    turns = torch.arange(80).view(2, 40).T.flatten()
    held = HeldOut(Rows(*(getattr(rows, field)[turns] for field in Rows.__slots__)), few_held_out(rows).moves, REGIMES)
    monkeypatch.setattr("surrogate.fidelity_figure._MOST", 40)
    shown = []
    scatter = Axes.scatter
    monkeypatch.setattr(Axes, "scatter", lambda *args, **rest: (shown.append(rest["label"]), scatter(*args, **rest))[1])
    draw_fidelity(tmp_path / "fidelity.png", held, {"surrogate": Analytic(truth)})
    assert shown[:2] == list(REGIMES)
