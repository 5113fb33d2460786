"""The surrogate's network and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from surrogate.approximator import Activation, Card, Surrogate, Tanh, load, read_card, save
from surrogate.errors import DataError, UsageError

COLUMNS = ("tp", "fp", "fn", "mean")


def seeded(columns: tuple[str, ...] = COLUMNS, **settings: Any) -> Surrogate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Surrogate(columns, **{"depth": 2, "width": 8, **settings})


def card_of(surrogate: Surrogate, **changes: Any) -> Card:
    return Card.model_validate(
        {
            "app": "none",
            "measure": "accuracy",
            "options": {"level": "sample"},
            "facts": {"num_classes": 2},
            "version": 1,
            "level": "sample",
            "columns": surrogate.columns,
            "inputs": surrogate.inputs,
            "depth": surrogate.depth,
            "width": surrogate.width,
            "activation": surrogate.activation,
            "fidelity": {"spearman": 0.9, "kendall": None},
            **changes,
        }
    )


@pytest.fixture
def stats() -> Tensor:
    return torch.rand(50, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 100.0, 1e-3, 5.0])


def test_tanh_is_tanh_and_so_are_its_derivatives() -> None:
    x = torch.linspace(-30.0, 30.0, 2001, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(Tanh()(x), x.tanh(), rtol=0, atol=1e-15)
    some = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Tanh(), some)
    assert torch.autograd.gradgradcheck(Tanh(), some)


def test_a_row_gives_one_loss(stats: Tensor) -> None:
    surrogate = seeded()
    assert surrogate(stats).shape == (50,)
    assert surrogate(stats[:0]).shape == (0,)
    rows = torch.stack([surrogate(row[None])[0] for row in stats])
    torch.testing.assert_close(surrogate(stats), rows)


@pytest.mark.parametrize("activation", ["relu", "tanh", "silu", "softplus"])
def test_depth_counts_hidden_layers(activation: Activation) -> None:
    surrogate = seeded(depth=3, width=5, activation=activation)
    shapes = [tuple(p.shape) for p in surrogate.parameters() if p.dim() == 2]
    assert shapes == [(5, 4), (5, 5), (5, 5), (1, 5)]


def test_predicted_losses_are_exactly_in_0_to_1_and_can_still_leave_the_bounds() -> None:
    """The value is clamped, the gradient is not; ties at a bound are ties, to the last bit."""
    surrogate = Surrogate(("x",), depth=1, width=1, activation="relu")
    with torch.no_grad():
        surrogate.layers[0].weight.fill_(1.0)
        surrogate.layers[0].bias.fill_(0.0)
        surrogate.layers[2].weight.fill_(1.0)
        surrogate.layers[2].bias.fill_(-1.0)
    x = torch.tensor([[0.5], [1.25], [1.5], [2.5], [4.3], [12345.678]], requires_grad=True)
    predicted = surrogate(x)
    assert predicted.tolist() == [0.0, 0.25, 0.5, 1.0, 1.0, 1.0]
    predicted.sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0] * 6


def test_inputs_are_found_by_name_wherever_their_column_stands(stats: Tensor) -> None:
    surrogate = seeded(inputs=("fn", "tp"))
    surrogate.standardise(stats)
    order = [3, 2, 1, 0]
    moved = seeded(tuple(COLUMNS[k] for k in order), inputs=("fn", "tp"))
    moved.standardise(stats[:, order])
    torch.testing.assert_close(moved(stats[:, order]), surrogate(stats))

    unused = stats.clone()
    unused[:, [1, 3]] = 1e6
    assert torch.equal(surrogate(unused), surrogate(stats))
    assert not torch.equal(surrogate(stats + 1.0), surrogate(stats))


def test_without_inputs_all_columns_are_used() -> None:
    assert seeded().inputs == COLUMNS


def test_an_unknown_input_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no statistic 'maen'; did you mean 'mean'\?"):
        seeded(inputs=("tp", "maen"))


def test_statistics_are_scaled_as_scikit_learn_scales_them(stats: Tensor) -> None:
    surrogate = seeded(inputs=("mean", "fp", "fn"))
    surrogate.standardise(stats)
    scaler = StandardScaler().fit(stats[:, [3, 1, 2]].numpy())
    torch.testing.assert_close(surrogate.mean, torch.as_tensor(scaler.mean_).float())
    torch.testing.assert_close(surrogate.scale, torch.as_tensor(scaler.scale_).float())


def test_a_constant_column_is_centred_and_divided_by_1(stats: Tensor) -> None:
    stats[:, 2] = 7.25
    surrogate = seeded()
    surrogate.standardise(stats)
    assert surrogate.mean[2] == 7.25
    assert surrogate.scale[2] == 1.0
    assert surrogate(stats).isfinite().all()


def test_rows_outside_of_what_the_fit_has_seen_are_told(stats: Tensor) -> None:
    surrogate = seeded(inputs=("tp", "fp"))
    assert not surrogate.outside(1e9 * stats).any()
    surrogate.standardise(stats)
    assert not surrogate.outside(stats).any()
    beyond = stats[:4].clone()
    beyond[0, 0] = stats[:, 0].max() + 1e-3
    beyond[1, 1] = stats[:, 1].min() - 1e-3
    beyond[2, 2] = 1e9  # not an input
    assert surrogate.outside(beyond).tolist() == [True, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_statistics_of_another_precision_are_taken(dtype: torch.dtype, stats: Tensor) -> None:
    surrogate = seeded()
    surrogate.standardise(stats)
    other = stats.to(dtype).requires_grad_()
    predicted = surrogate(other)
    assert predicted.dtype == torch.float32
    torch.testing.assert_close(predicted, surrogate(stats), rtol=0.0, atol=1e-6 if dtype == torch.float64 else 0.05)
    predicted.sum().backward()
    assert other.grad is not None
    assert other.grad.dtype == dtype


def test_a_surrogate_is_saved_and_loaded(stats: Tensor, tmp_path: Path) -> None:
    surrogate = seeded(inputs=("fn", "tp"), activation="softplus")
    surrogate.standardise(stats)
    card = card_of(surrogate)
    save(surrogate, card, tmp_path / "a.safetensors")
    save(surrogate, card, tmp_path / "deep" / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "deep" / "b.safetensors").read_bytes()
    again, found = load(tmp_path / "a.safetensors")
    assert found == card == read_card(tmp_path / "a.safetensors")
    assert torch.equal(again(stats), surrogate(stats))
    assert torch.equal(again.outside(2 * stats), surrogate.outside(2 * stats))


def written(path: Path, metadata: dict[str, str] | None, tensors: dict[str, Tensor] | None = None) -> Path:
    safetensors.torch.save_file(tensors or {"x": torch.zeros(1)}, path, metadata=metadata)
    return path


def test_what_is_not_a_surrogate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(DataError, match="no such file; expected a surrogate, make one with"):
        load(path)
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path)
    path.write_bytes(b"PK\x03\x04 this is a zip")
    with pytest.raises(DataError, match="damaged or not safetensors"):
        load(path)
    with pytest.raises(DataError, match="safetensors, but not of a surrogate"):
        load(written(path, None))
    with pytest.raises(DataError, match="safetensors, but not of a surrogate"):
        load(written(path, {"format": "pt"}))
    with pytest.raises(DataError, match="description unreadable"):
        load(written(path, {"surrogate": "{not json"}))


def test_weights_that_are_nan_are_refused(tmp_path: Path) -> None:
    broken = seeded()
    broken.layers[0].weight.data[0, 0] = torch.nan
    save(broken, card_of(broken), tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"a\.safetensors: damaged, weights that are NaN; fit again"):
        load(tmp_path / "a.safetensors")


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save(seeded(), card_of(seeded()), whole)
    data = whole.read_bytes()
    for length in [0, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut\.safetensors: damaged"):
            load(cut)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"width": "wide"}, "unreadable at 'width'"),
        ({"activation": "eval"}, "unreadable at 'activation'"),
        ({"columns": None}, "unreadable at 'columns'"),
        ({"pickle": "gASV"}, "unreadable at 'pickle'"),
        ({"schema_version": 2, "trained_on": "tomorrow"}, "schema_version"),
        ({"width": 9}, "weights do not fit"),
        ({"depth": 1}, "weights do not fit"),
        ({"inputs": ["tp"]}, "weights do not fit"),
        ({"inputs": ["tp", "fp", "fn", "nothing"]}, "weights do not fit.*'nothing'"),
    ],
)
def test_a_description_that_does_not_hold_is_refused_by_name(
    change: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    surrogate = seeded()
    text = json.dumps({**card_of(surrogate).model_dump(mode="json"), **change})
    path = written(tmp_path / "a.safetensors", {"surrogate": text}, surrogate.state_dict())
    with pytest.raises(DataError, match=f"{path}: .*{complaint}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_function_transforms_go_through_it():
    surrogate = Surrogate(["a", "b"]).requires_grad_(False)
    stats = torch.rand(4, 2)

    def total(x):
        return surrogate(x).sum()

    each = torch.func.vmap(lambda row: surrogate(row[None])[0])(stats)
    torch.testing.assert_close(each, surrogate(stats))
    slope = torch.func.grad(total)(stats)
    _, along = torch.func.jvp(surrogate, (stats,), (torch.ones_like(stats),))
    torch.testing.assert_close(along, slope.sum(1))
