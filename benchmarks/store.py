"""Writing and reading statistics: the store, with its checksums, against bare h5py and numpy, which have none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from benchmarks.harness import Case, seconds
from benchmarks.rows import Row, Settings, compared, rate
from surrogate.shard import Rows
from surrogate.store import StatsStore, StoreSpec, StoreWriter

SUBJECT = "store"
COLUMNS = ("tp", "fp", "fn", "tp_mean", "fp_mean", "fn_mean")
BLOCK = 4096


def store_spec(columns: Sequence[str], regimes: Sequence[str]) -> StoreSpec:
    """A spec whose names do not matter."""
    return StoreSpec(
        app="", measure="iou", measure_version=1, level="sample",
        columns=tuple(columns), regimes=tuple(regimes), policies={},
    )  # fmt: skip


def random_rows(count: int, columns: int) -> Rows:
    """Rows in [0, 1], a hundred to a sample."""
    dice = torch.Generator().manual_seed(0)
    return Rows(
        torch.rand(count, columns, generator=dice),
        torch.rand(count, generator=dice, dtype=torch.float64),
        torch.arange(count) // 100,
        torch.zeros(count, dtype=torch.int16),
    )


def write(folder: Path, rows: Rows, columns: Sequence[str], *, block: int = BLOCK) -> StatsStore:
    """The rows as a complete store, appended in blocks as a collection does it."""
    writer = StoreWriter(folder, store_spec(columns, ("model",)))
    parts = zip(rows.stats.split(block), rows.value.split(block), rows.sample.split(block), strict=True)
    for number, (stats, value, sample) in enumerate(parts, 1):
        writer.append(stats, value, sample, regime=0)
        writer.mark(number)
    writer.close()
    return StatsStore.open(folder)


def run(settings: Settings) -> Iterator[Row]:
    """A million rows of six statistics, 42 bytes each."""
    rows = random_rows(5_000 if settings.tiny else 1_000_000, len(COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        yield from _append(settings, rows, Path(folder))
        yield from _read(settings, rows, Path(folder))


def _append(settings: Settings, rows: Rows, folder: Path) -> Iterator[Row]:
    ours, theirs = folder / "ours", folder / "theirs.h5"

    def fresh() -> None:
        shutil.rmtree(ours, ignore_errors=True)
        theirs.unlink(missing_ok=True)

    def ours_by(block: int) -> Case:
        return Case(lambda: write(ours, rows, COLUMNS, block=block), fresh)

    blocks = {f"append in blocks of {BLOCK}": BLOCK, "append in blocks of 168 (8 images of 21 classes)": 168}
    cases = {name: ours_by(block) for name, block in blocks.items()}
    cases["h5py"] = Case(lambda: _write_h5py(theirs, rows), fresh)
    taken = seconds(cases, settings.plan, anchor="h5py")
    for name, times in taken.items():
        yield rate(SUBJECT, name, _size(rows), times, len(rows.value) / 1e6, unit="M rows/s")


def _read(settings: Settings, rows: Rows, folder: Path) -> Iterator[Row]:
    store = write(folder / "read", rows, COLUMNS)
    arrays = {name: getattr(rows, name).numpy() for name in Rows.__slots__}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "all.npz", **arrays)
    npy, npz = "np.load of .npy", "np.load of .npz"
    cases = {
        npy: Case(lambda: [np.load(folder / f"{name}.npy") for name in arrays]),
        npz: Case(lambda: dict(np.load(folder / "all.npz"))),
        "ours": Case(store.read),
        "shards": Case(lambda: [len(part.value) for part in store.shards()]),
    }
    whats = {(name, anchor): what for name, what in _READS.items() for anchor in (npy, npz)}
    yield from compared(settings, SUBJECT, _size(rows), cases, whats)


_READS = {"ours": "read, time", "shards": "read shard by shard, time"}


def _write_h5py(path: Path, rows: Rows) -> None:
    """The usual way: data sets that grow by a block at a time."""
    arrays = {name: getattr(rows, name).numpy() for name in Rows.__slots__}
    with h5py.File(path, "w") as file:
        growing = {
            name: file.create_dataset(
                name, (0, *a.shape[1:]), a.dtype, maxshape=(None, *a.shape[1:]), chunks=(BLOCK, *a.shape[1:])
            )
            for name, a in arrays.items()
        }
        for start in range(0, len(rows.value), BLOCK):
            stop = min(start + BLOCK, len(rows.value))
            for name, data in growing.items():
                data.resize(stop, axis=0)
                data[start:stop] = arrays[name][start:stop]


def _size(rows: Rows) -> str:
    return f"{len(rows.value)} rows of {rows.stats.shape[1]} statistics"
