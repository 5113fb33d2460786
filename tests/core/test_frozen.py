"""The frozen network by each kernel against its layers in float64; on a GPU: tests/segmentation."""

from __future__ import annotations

import copy
import logging
import platform
from pathlib import Path

import pytest
import torch
from torch import Tensor

from surrogate import compiled, frozen, frozen_native
from surrogate.approximator import Surrogate
from surrogate.errors import MissingExtraError


def _compiles() -> bool:
    try:
        frozen_native.library()
    except MissingExtraError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _compiles(), reason="no C compiler that works")
SIZES = [(21, 6, 4, 100), (17, 9, 2, 16), (3, 1, 1, 128), (1, 130, 3, 5), (9, 2, 2, 300)]
"""Rows, columns, depth, width."""


def network(columns: int = 6, depth: int = 4, width: int = 100) -> Surrogate:
    names = [f"s{k}" for k in range(columns)]
    surrogate = Surrogate(names, inputs=names[::-1], depth=depth, width=width)
    surrogate.standardise(torch.rand(50, columns) * 3 - 1)
    return surrogate


def runs(surrogate: Surrogate, stats: Tensor) -> bool:
    return frozen.predicted(surrogate, stats[:, : len(surrogate.inputs)]) is not None


def layers(surrogate: Surrogate, stats: Tensor) -> Tensor:
    return surrogate.through_layers(stats[:, surrogate.index]).clamp(0.0, 1.0)


def value_and_slope(surrogate: Surrogate, stats: Tensor) -> tuple[Tensor, Tensor]:
    stats = stats.clone().requires_grad_()
    value = surrogate(stats)
    (value * torch.arange(1.0, len(stats) + 1)).sum().backward()
    assert stats.grad is not None
    return value.detach(), stats.grad


def assert_runs_like_the_layers(rows: int, columns: int, depth: int, width: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        surrogate, other = network(columns, depth, width), network(columns, depth, width)
        stats = torch.rand(rows, columns) * 3 - 1
    assert not runs(surrogate, stats)  # it may be fitted still
    expected = value_and_slope(copy.deepcopy(surrogate).double(), stats)
    surrogate.requires_grad_(False)
    assert runs(surrogate, stats)
    for found, truth in zip(value_and_slope(surrogate, stats), expected, strict=True):
        torch.testing.assert_close(found.double(), truth.double(), rtol=1e-5, atol=1e-5)
    twin = copy.deepcopy(surrogate)
    surrogate.load_state_dict(other.state_dict())  # as a refresh does
    torch.testing.assert_close(surrogate(stats), other(stats))
    twin.load_state_dict(other.state_dict(), assign=True)
    torch.testing.assert_close(twin(stats), other(stats))


@needs_compiler
@pytest.mark.parametrize("size", SIZES)
def test_value_and_slope_are_those_of_the_layers(size: tuple[int, int, int, int]) -> None:
    assert_runs_like_the_layers(*size)


def test_triton_says_so_too(interpreted) -> None:
    interpreted(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_frozen
        for size in test_frozen.SIZES[:3]:
            test_frozen.assert_runs_like_the_layers(*size)
        assert not test_frozen.runs(test_frozen.network(width=129).requires_grad_(False), test_frozen.torch.rand(3, 6))
    """)


@pytest.mark.skipif(not _compiles() or platform.machine() != "x86_64", reason="x86-64 with a C compiler")
@pytest.mark.parametrize("flags", [("-mno-avx512f",), ("-mno-avx512f", "-mno-avx2")], ids=["8 lanes", "4 lanes"])
def test_narrower_vectors(flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on machines with shorter registers than this one's."""
    narrow = compiled.built(Path(frozen_native.__file__).with_name("frozen.c"), ["cc"], "-fopenmp", *flags)
    assert narrow.step() <= frozen_native.library().step()
    monkeypatch.setattr(frozen_native, "library", lambda: narrow)
    assert_runs_like_the_layers(*SIZES[0])


@needs_compiler
def test_a_row_is_the_same_in_any_batch_and_number_of_threads() -> None:
    surrogate = network().requires_grad_(False)
    stats = torch.rand(301, 6)
    value, (slope,) = (
        surrogate(stats),
        torch.autograd.functional.jacobian(lambda x: surrogate(x).sum(), (stats,)),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert torch.equal(surrogate(stats), value)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(surrogate(stats[5:7].flip(0)).flip(0), value[5:7])
    assert torch.equal(value_and_slope(surrogate, stats[5:6])[1], slope[5:6])


@needs_compiler
def test_second_derivatives_are_those_of_the_layers() -> None:
    surrogate = network().requires_grad_(False)
    stats = torch.rand(5, 6, requires_grad=True)
    found = []
    for called, x in ((surrogate, stats), (copy.deepcopy(surrogate).double(), stats.double())):
        (slope,) = torch.autograd.grad(called(x).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0].double())
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_unsound_stays_so_and_alone(value: float) -> None:
    surrogate = network().requires_grad_(False)
    stats = torch.rand(6, 6)
    sound = surrogate(stats)
    stats[2, 3] = value
    found = surrogate(stats)
    expected = layers(surrogate, stats)
    assert torch.equal(found.isnan(), expected.isnan())
    others = torch.arange(6) != 2
    assert torch.equal(found[others], sound[others])


@needs_compiler
def test_what_is_left_to_the_layers() -> None:
    stats = torch.rand(3, 2)
    for options in ({}, {"activation": "relu"}, {"directions": (1, -1)}):
        surrogate = Surrogate(["a", "b"], **options).requires_grad_(False)  # type: ignore[arg-type]
        assert runs(surrogate, stats) == (not options)
    assert not runs(surrogate, stats[:0])
    plain = Surrogate(["a", "b"]).requires_grad_(False)
    with torch.autograd.forward_ad.dual_level():
        assert not runs(plain, stats)
    assert not runs(plain, stats.to("meta"))
    assert not runs(copy.deepcopy(plain).to("meta"), stats)
    assert not runs(plain.double(), stats.double())


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    compiled.library.cache_clear()
    frozen._kernel.cache_clear()
    try:
        with caplog.at_level(logging.INFO, logger="surrogate"):
            surrogate = network().requires_grad_(False)
            stats = torch.rand(3, 6)
            assert not runs(surrogate, stats)
            assert torch.equal(surrogate(stats), layers(surrogate, stats))
    finally:
        compiled.library.cache_clear()
        frozen._kernel.cache_clear()
    assert caplog.text.count("C compiler no-such-compiler failed") == 1
