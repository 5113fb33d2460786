"""The statistics store: what is appended is read back, however the writer was interrupted."""

import dataclasses
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surrogate.store
from surrogate.errors import DataError, UsageError
from surrogate.store import Rows, StatsStore, StoreSpec, StoreWriter

SPEC = StoreSpec(
    app="toy",
    measure="iou",
    measure_version=1,
    level="sample",
    columns=("tp", "fp", "fn"),
    regimes=("model", "noisy"),
    policies={"ignore_index": 11, "names": ("sky", "road")},
)
Block = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]


def block(seed: int, rows: int, columns: int = 3) -> Block:
    """Random rows, a quarter of them undefined, with statistics that are NaN where the value is."""
    draw = np.random.default_rng(seed)
    stats, value = draw.normal(size=(rows, columns)).astype(np.float32), draw.normal(size=rows)
    undefined = draw.random(rows) < 0.25
    stats[undefined], value[undefined] = np.nan, np.nan
    return (*map(torch.from_numpy, (stats, value, draw.integers(0, 1000, rows))), int(draw.integers(2)))


def record(folder: Path, blocks: list[Block], *, shard_rows: int = 20, spec: StoreSpec = SPEC) -> StatsStore:
    """Collects from where the store in `folder` stands, one block a work item."""
    writer = StoreWriter(folder, spec, shard_rows=shard_rows)
    for item, (stats, value, sample, regime) in list(enumerate(blocks))[writer.cursor :]:
        writer.append(stats, value, sample, regime=regime)
        writer.mark(item + 1)
    writer.close()
    return StatsStore.open(folder)


def expected(blocks: list[Block]) -> list[np.ndarray]:
    """The defined rows, by numpy: stats, value, sample, regime."""
    rows = [(s.numpy(), v.numpy(), i.numpy(), np.full(len(v), r, np.int16)) for s, v, i, r in blocks]
    stats, value, sample, regime = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    defined = ~np.isnan(value)
    return [stats[defined], value.astype(np.float32)[defined], sample[defined], regime[defined]]


def assert_same(rows: Rows, arrays: list[np.ndarray]) -> None:
    for tensor, array in zip((rows.stats, rows.value, rows.sample, rows.regime), arrays, strict=True):
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), array, strict=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@settings(max_examples=30, deadline=None)
@given(
    columns=st.integers(1, 5),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    shard_rows=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_rows_come_back_as_they_were_appended(columns: int, sizes: list[int], shard_rows: int, seed: int) -> None:
    spec = dataclasses.replace(SPEC, columns=tuple(f"c{k}" for k in range(columns)))
    blocks = [block(seed + k, rows, columns) for k, rows in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        store = record(Path(folder) / "stats", blocks, shard_rows=shard_rows, spec=spec)
        arrays = expected(blocks)
        assert_same(store.read(), arrays)
        assert (store.rows, store.undefined) == (len(arrays[1]), sum(sizes) - len(arrays[1]))
        assert store.complete
        assert store.spec == spec
        shards = list(store.shards())
        assert all(len(shard.value) >= shard_rows for shard in shards[:-1])
        for k, name in enumerate(("stats", "value", "sample", "regime")):
            assert np.array_equal(np.concatenate([arrays[k][:0], *(getattr(s, name) for s in shards)]), arrays[k])


def test_the_metric_is_kept_in_double_precision(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, SPEC)
    writer.append(torch.zeros(1, 3), torch.tensor([1 / 3], dtype=torch.float64), torch.tensor([2**40]), regime=0)
    writer.close()
    with h5py.File(tmp_path / "shard-0-00000.h5") as file:
        assert file["value"][0] == 1 / 3
        assert file["sample"][0] == 2**40


def test_a_tensor_may_be_reused_after_append(tmp_path: Path) -> None:
    stats, value, sample = torch.ones(4, 3), torch.ones(4), torch.ones(4, dtype=torch.int64)
    writer = StoreWriter(tmp_path, SPEC)
    writer.append(stats.requires_grad_(), value, sample, regime=1)
    for tensor in (stats.data, value, sample):
        tensor.zero_()
    writer.close()
    assert_same(
        StatsStore.open(tmp_path).read(),
        [np.ones((4, 3), "f4"), np.ones(4, "f4"), np.ones(4, "i8"), np.ones(4, "i2")],
    )


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    blocks = [block(k, 15) for k in range(6)]
    record(tmp_path / "one", blocks)
    time.sleep(1.1)  # HDF5 records times in seconds, unless told not to
    record(tmp_path / "two", blocks)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(contents(tmp_path / "one"))[:2] == ["manifest.json", "shard-0-00000.h5"]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_killed_at_any_write_is_readable_and_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    blocks = [block(k, 9) for k in range(9)]
    whole = record(tmp_path / "whole", blocks)
    write = surrogate.store.write_atomic
    n_writes = 2 + 2 * len(whole.manifest.shards)  # a manifest first and last, and with each shard
    for fatal in range(n_writes):
        folder = tmp_path / f"killed-{fatal}"
        countdown = iter(range(fatal, -1, -1))

        def dying(path: Path, data: bytes, countdown: Iterator[int] = countdown) -> None:
            last = next(countdown) == 0
            if last and when == "before":
                path.parent.mkdir(exist_ok=True)
                path.with_name(f".{path.name}.0.partial").write_bytes(data[: len(data) // 2])
                raise Killed
            write(path, data)
            if last:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(surrogate.store, "write_atomic", dying)
            with pytest.raises(Killed):
                record(folder, blocks)
        assert StatsStore.is_complete(folder) == (fatal == n_writes - 1 and when == "after")
        if (folder / "manifest.json").exists():
            part = StatsStore.open(folder)
            assert_same(part.read(), [array[: part.rows] for array in expected(blocks)])
        record(folder, blocks)
        assert contents(folder) == contents(tmp_path / "whole")


def test_undefined_rows_at_the_end_are_counted_and_not_recorded_twice(tmp_path: Path) -> None:
    undefined = (torch.full((5, 3), torch.nan), torch.full((5,), torch.nan), torch.arange(5), 0)
    for _ in range(2):
        store = record(tmp_path, [undefined, undefined])
        assert (store.rows, store.undefined) == (0, 10)
        assert store.read().stats.shape == (0, 3)
        assert StoreWriter(tmp_path, SPEC).cursor == 2


def test_another_spec_is_refused_with_the_differing_keys(tmp_path: Path) -> None:
    record(tmp_path, [block(1, 5)])
    other = dataclasses.replace(SPEC, level="batch", policies={"ignore_index": 255, "names": ["sky", "road"], "new": 1})
    with pytest.raises(UsageError, match=r"another level, policies\.ignore_index, policies\.new; delete it"):
        StoreWriter(tmp_path, other)


def test_a_complete_store_takes_no_more_rows(tmp_path: Path) -> None:
    record(tmp_path, [block(1, 5)])
    before = contents(tmp_path)
    writer = StoreWriter(tmp_path, SPEC)
    stats, value, sample, regime = block(2, 5)
    with pytest.raises(UsageError, match="complete"):
        writer.append(stats, value, sample, regime=regime)
    writer.close()
    assert contents(tmp_path) == before


def test_a_second_writer_is_noticed(tmp_path: Path) -> None:
    first, second = StoreWriter(tmp_path, SPEC), StoreWriter(tmp_path, SPEC)
    first.close()
    with pytest.raises(UsageError, match="changed by another process"):
        second.close()


def test_a_second_writer_does_not_write_over_a_shard_of_the_first(tmp_path: Path) -> None:
    first, second = StoreWriter(tmp_path, SPEC), StoreWriter(tmp_path, SPEC)
    for seed, writer in enumerate((first, second)):
        writer.append(*block(seed, 5)[:3], regime=0)
    first.close()
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="changed by another process"):
        second.close()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("column", "odd"), [(0, float("nan")), (2, float("inf")), (None, float("-inf")), (None, 1e300)]
)
def test_a_defined_row_must_be_finite(tmp_path: Path, column: int | None, odd: float) -> None:
    stats, value = torch.zeros(4, 3), torch.zeros(4, dtype=torch.float64)
    (value if column is None else stats[:, column])[2] = odd
    writer = StoreWriter(tmp_path, SPEC)
    name = "the metric" if column is None else f"statistic '{SPEC.columns[column]}'"
    with pytest.raises(DataError, match=f"{name} of sample 17 is .*expected a finite number"):
        writer.append(stats, value, torch.tensor([15, 16, 17, 18]), regime=0)
    writer.close()
    assert StatsStore.open(tmp_path).rows == 0


@pytest.mark.parametrize("shapes", [((4, 2), 4, 4), ((3, 3), 4, 4), ((4, 3), 4, 3), (12, 4, 4)])
def test_rows_of_another_shape_are_refused(tmp_path: Path, shapes: tuple[tuple[int, ...], int, int]) -> None:
    stats, value, sample = map(torch.zeros, shapes)
    with pytest.raises(DataError, match=r"expected \(R, 3\), \(R,\) and \(R,\)"):
        StoreWriter(tmp_path, SPEC).append(stats, value, sample, regime=0)


def test_an_unknown_regime_and_marks_that_go_back_are_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path, SPEC)
    with pytest.raises(UsageError, match="regime 2: expected the number of one of model, noisy"):
        writer.append(*block(1, 4)[:3], regime=2)
    writer.mark(3)
    with pytest.raises(ValueError, match="in order"):
        writer.mark(2)


@pytest.mark.parametrize(
    "change",
    [
        {"columns": ()},
        {"columns": ("a", "a")},
        {"columns": ("a/b",)},
        {"columns": ("",)},
        {"regimes": ("a\n",)},
        {"policies": {"f": print}},
        {"policies": {"f": float("nan")}},
    ],
)
def test_a_spec_that_cannot_be_stored_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(SPEC, **change)


def test_memory_does_not_grow_with_the_number_of_shards(tmp_path: Path) -> None:
    def peak(shards: int) -> int:
        store = record(tmp_path / str(shards), [block(k, 4000) for k in range(shards)], shard_rows=1)
        tracemalloc.start()
        rows = sum(len(part.value) for part in store.shards())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == store.rows
        return most

    assert peak(12) < 1.5 * peak(2)
