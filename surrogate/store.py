"""The statistics store: immutable HDF5 shards and the manifest that lists them. See `docs/format.md`.

A shard is built in memory and put in place whole; then the manifest is replaced by one that lists it. A shard
that the manifest does not list does not exist. So a store is readable after a kill at any instant, and its
writer goes on after the last shard listed. N rows, F columns throughout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surrogate.atomic import sweep, write_atomic
from surrogate.errors import DataError, UsageError
from surrogate.manifest import MANIFEST, Manifest, ShardEntry, StoreSpec, read_manifest, refusal
from surrogate.shard import HDF5_ERRORS, Rows, check_finite, decode_shard, encode_shard, row_bytes

__all__ = ["Rows", "StatsStore", "StoreSpec", "StoreWriter"]


class StoreWriter:
    """Appends rows to a store, one writer to a folder; an unfinished store of an equal spec is continued.

    A shard is sealed at the first `mark` that finds `shard_rows` rows waiting, never in between. So a run
    that was killed and goes on from `cursor` ends in the same bytes as one that was not. Memory holds a few
    times one shard, however long the store.

    Raises:
        UsageError: the folder holds a store of another spec.
        DataError: it holds a damaged store, or cannot be written.
    """

    def __init__(self, folder: Path, spec: StoreSpec, *, shard_rows: int = 65536) -> None:
        self._folder, self._shard_rows = folder, shard_rows
        self._blocks: list[Rows] = []
        self._waiting = self._undefined = 0
        self._on_disk = b""
        sweep(folder)
        if (folder / MANIFEST).exists():
            self._manifest, self._on_disk = _open(folder)
            if differing := ", ".join(spec.differing_keys(self._manifest.spec)):
                raise UsageError(f"{folder}: holds statistics of another {differing}; delete it to collect anew")
        else:
            self._publish(Manifest(spec=spec))
        self._marked = self.cursor

    @property
    def cursor(self) -> int:
        """The first work item that is not in a sealed shard: where a resumed run starts."""
        return self._manifest.cursor

    def append(self, stats: Tensor, values: Tensor, samples: Tensor, *, regime: int) -> None:
        """Takes R rows over: `(R, F)` statistics, `(R,)` losses, `(R,)` int64 sample ids, any device.

        Rows whose value is NaN are dropped and counted.

        Raises:
            DataError: a shape does not fit, or a defined row holds a number that is not finite in float32.
            UsageError: the store is complete, or there is no such regime.
        """
        spec = self._manifest.spec
        if self._manifest.complete:
            raise UsageError(f"{self._folder}: holds complete statistics; delete it to collect anew")
        if not 0 <= regime < len(spec.regimes):
            raise UsageError(f"regime {regime}: expected the number of one of {', '.join(spec.regimes)}")
        shapes = [tuple(tensor.shape) for tensor in (stats, values, samples)]
        if shapes != [(len(values), len(spec.columns)), (len(values),), (len(values),)]:
            raise DataError(f"rows of shapes {shapes}: expected (R, {len(spec.columns)}), (R,) and (R,)")
        value = values.detach().to("cpu", torch.float64)
        undefined = value.isnan()
        kept = ~undefined if undefined.any() else slice(None)  # a slice costs a tenth of a mask
        block = Rows(  # copies, so the caller may go on with its tensors
            stats.detach().to("cpu", torch.float32)[kept].clone(),
            value := value[kept].clone(),
            samples.detach().to("cpu", torch.int64)[kept].clone(),
            torch.full(value.shape, regime, dtype=torch.int16),
        )
        check_finite(block, spec.columns)
        self._blocks.append(block)
        self._waiting += len(block.value)
        self._undefined += len(values) - len(block.value)

    def mark(self, cursor: int) -> None:
        """Everything up to work item `cursor`, exclusive, has been appended: a shard may be sealed here."""
        if cursor < self._marked:
            raise ValueError(f"mark({cursor}) after mark({self._marked}): work items are done in order")
        self._marked = cursor
        if self._waiting >= self._shard_rows:
            self._seal()

    def close(self) -> None:
        """Seals what is waiting and marks the store complete."""
        if self._waiting:
            self._seal()
        if not self._manifest.complete:
            self._advance(complete=True)

    def _seal(self) -> None:
        shards = self._manifest.shards
        rows = Rows(*(torch.cat([getattr(block, f) for block in self._blocks]) for f in Rows.__slots__))
        data = encode_shard(self._manifest.spec, rows)
        entry = ShardEntry(
            file=f"shard-0-{len(shards):05d}.h5",  # 0 is the rank of the one process that writes
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            rows=len(rows.value),
            sample_min=int(rows.sample.min()),
            sample_max=int(rows.sample.max()),
            items=(self.cursor, self._marked),
        )
        self._check_alone()
        write_atomic(self._folder / entry.file, data)
        self._advance(shards=(*shards, entry))
        self._blocks, self._waiting = [], 0

    def _advance(self, **changes: Any) -> None:
        undefined = self._manifest.undefined + self._undefined
        changes |= {"cursor": self._marked, "undefined": undefined}
        self._publish(self._manifest.model_copy(update=changes))
        self._undefined = 0

    def _publish(self, manifest: Manifest) -> None:
        self._check_alone()
        data = manifest.encode()
        write_atomic(self._folder / MANIFEST, data)
        self._manifest, self._on_disk = manifest, data

    def _check_alone(self) -> None:
        path = self._folder / MANIFEST
        if (path.read_bytes() if path.exists() else b"") != self._on_disk:
            raise UsageError(f"{path}: was changed by another process; expected one writer to a store")


@dataclass(frozen=True, slots=True)
class StatsStore:
    """A store to read, made by `open`. A shard is checked against its checksum whenever it is read."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> StatsStore:
        """Checks the manifest, and that every shard is there in its full size.

        Raises:
            DataError: there is no store, or it is damaged or of another schema; so do `read` and `shards`.
        """
        return cls(folder, _open(folder)[0])

    @staticmethod
    def is_complete(folder: Path) -> bool:
        """Whether a store is there and was closed; raises `DataError` when it is damaged."""
        return (folder / MANIFEST).exists() and StatsStore.open(folder).complete

    @property
    def spec(self) -> StoreSpec:
        return self.manifest.spec

    @property
    def rows(self) -> int:
        """N, without the undefined rows."""
        return self.manifest.rows

    @property
    def undefined(self) -> int:
        """How many rows were dropped because the metric was NaN."""
        return self.manifest.undefined

    @property
    def complete(self) -> bool:
        """Whether the writer was closed; a store of a killed run is readable and not complete."""
        return self.manifest.complete

    def shards(self) -> Iterator[Rows]:
        """All rows and columns in the order written, one shard in memory at a time."""
        return (self._load(entry) for entry in self.manifest.shards)

    def read(self) -> Rows:
        """All rows at once."""
        whole = Rows(
            stats=torch.empty(self.rows, len(self.spec.columns)),
            value=torch.empty(self.rows),
            sample=torch.empty(self.rows, dtype=torch.int64),
            regime=torch.empty(self.rows, dtype=torch.int16),
        )
        stop = 0
        for part in self.shards():
            start, stop = stop, stop + len(part.value)
            whole.stats[start:stop] = part.stats
            whole.value[start:stop] = part.value
            whole.sample[start:stop] = part.sample
            whole.regime[start:stop] = part.regime
        return whole

    def _load(self, entry: ShardEntry) -> Rows:
        path = self.folder / entry.file
        try:
            with path.open("rb") as file:
                data = file.read(entry.bytes + 1)
            if len(data) != entry.bytes:
                raise ValueError(f"its size is not the {entry.bytes} bytes of the manifest")
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise ValueError(f"its checksum is not the one in the manifest, {entry.sha256[:12]}...")
            rows = decode_shard(data, self.spec, entry.rows)
            _check_rows(rows, self.spec, entry)
        except (*HDF5_ERRORS, DataError) as error:
            raise refusal(path, error) from None
        return rows


def _open(folder: Path) -> tuple[Manifest, bytes]:
    manifest, raw = read_manifest(folder)
    for entry in manifest.shards:
        path = folder / entry.file
        if not path.is_file():
            raise refusal(path, "is missing")
        if path.stat().st_size != entry.bytes:
            raise refusal(path, f"has {path.stat().st_size} bytes, expected {entry.bytes}")
        if entry.rows * row_bytes(manifest.spec) > entry.bytes:  # before anything of that size is asked for
            raise refusal(folder / MANIFEST, f"{entry.file} cannot hold {entry.rows} rows in {entry.bytes} bytes")
    return manifest, raw


def _check_rows(rows: Rows, spec: StoreSpec, entry: ShardEntry) -> None:
    check_finite(rows, spec.columns)
    samples = int(rows.sample.min()), int(rows.sample.max())
    if samples != (entry.sample_min, entry.sample_max):
        raise ValueError(f"samples {samples}, expected {(entry.sample_min, entry.sample_max)}")
    if not 0 <= int(rows.regime.min()) <= int(rows.regime.max()) < len(spec.regimes):
        raise ValueError(f"a regime that is not among the {len(spec.regimes)} of the manifest")
