"""One shard of a store as an HDF5 file, built and read in memory. See `docs/format.md`.

The reader accepts what the writer makes and nothing else: every feature of HDF5 that reaches out of the file,
runs a filter or promises more than is there is refused before any data is read.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surrogate.errors import DataError
from surrogate.manifest import SCHEMA, StoreSpec

Array = npt.NDArray[Any]

STATISTIC: Final = np.dtype("<f4")
ROW_FIELDS: Final[Mapping[str, np.dtype[Any]]] = {
    "value": np.dtype("<f8"),
    "sample": np.dtype("<i8"),
    "regime": np.dtype("<i2"),
}
HDF5_ERRORS: Final = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises for a file that is not as expected."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Recorded rows, on the CPU, every number finite."""

    stats: Tensor
    """`(N, F)` float32."""
    value: Tensor
    """`(N,)` float32 of the recorded float64: the true loss in [0, 1], or in the store of moves its change."""
    sample: Tensor
    """`(N,)` int64: which sample the row comes from; a split never parts the rows of one sample."""
    regime: Tensor
    """`(N,)` int16: a number into `StoreSpec.regimes`."""


def row_bytes(spec: StoreSpec) -> int:
    """What a row takes in a shard, in bytes."""
    return len(spec.columns) * STATISTIC.itemsize + sum(dtype.itemsize for dtype in ROW_FIELDS.values())


def encode_shard(spec: StoreSpec, rows: Rows) -> bytes:
    """The file of a shard; equal rows give equal bytes. `rows.value` is float64 here."""
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v108", "v108")) as file:
        for key, text in _attributes(spec, len(rows.value)).items():
            file.attrs[key] = np.bytes_(text)
        columns = {f"stats/{name}": rows.stats[:, k] for k, name in enumerate(spec.columns)}
        for name, data in columns.items():
            file.create_dataset(name, data=data.numpy(), dtype=STATISTIC, track_times=False)
        for name, dtype in ROW_FIELDS.items():
            file.create_dataset(name, data=getattr(rows, name).numpy(), dtype=dtype, track_times=False)
    return image.getvalue()


def decode_shard(data: bytes, spec: StoreSpec, count: int) -> Rows:
    """The `count` rows of a shard; a file that `encode_shard` would not make raises one of `HDF5_ERRORS`."""
    with h5py.File(io.BytesIO(data), "r") as file:
        _check_attributes(file, _attributes(spec, count))
        _check_members(file, {"stats", *ROW_FIELDS})
        _check_attributes(file["stats"], {})
        _check_members(file["stats"], set(spec.columns))
        stats = np.empty((count, len(spec.columns)), STATISTIC)
        for k, column in enumerate(spec.columns):
            stats[:, k] = _read(file["stats"][column], STATISTIC, count)
        fields = (_read(file[name], dtype, count) for name, dtype in ROW_FIELDS.items())
        value, sample, regime = map(torch.from_numpy, fields)
    return Rows(torch.from_numpy(stats), value.float(), sample, regime)


def check_finite(rows: Rows, columns: Sequence[str]) -> None:
    """Raises `DataError` for the first statistic or value that is not finite in float32."""
    if math.isfinite(rows.stats.sum() + rows.value.float().sum()):  # one number that is not finite spoils a sum
        return
    finite = np.isfinite(rows.stats.numpy())
    if not finite.all():
        row, k = np.argwhere(~finite)[0]
        found = f"statistic {columns[k]!r} of sample {rows.sample[row]} is {rows.stats[row, k]}"
        raise DataError(f"{found} where the metric is {rows.value[row]}; expected a finite number")
    finite = np.isfinite(rows.value.float().numpy())
    if not finite.all():
        row = np.argmin(finite)
        found = f"the metric of sample {rows.sample[row]} is {rows.value[row]}"
        raise DataError(f"{found}; expected a finite number in float32, or NaN where it is undefined")


def _attributes(spec: StoreSpec, count: int) -> dict[str, bytes]:
    facts = {"schema_version": SCHEMA, "rows": count, **asdict(spec)}
    return {key: json.dumps(fact, sort_keys=True).encode() for key, fact in facts.items()}


def _check_attributes(node: h5py.HLObject, expected: Mapping[str, bytes]) -> None:
    if set(node.attrs) != set(expected):
        raise ValueError(f"attributes {sorted(node.attrs)} of {node.name}, expected {sorted(expected)}")
    for key, text in expected.items():
        found = node.attrs.get_id(key)
        if (found.shape, found.dtype) != ((), np.dtype(f"S{len(text)}")) or node.attrs[key] != text:
            raise ValueError(f"attribute {key} is not {text.decode()}, as in the manifest")


def _check_members(group: h5py.HLObject, expected: set[str]) -> None:
    if not isinstance(group, h5py.Group) or set(group) != expected:
        raise ValueError(f"{group.name} is not a group of {', '.join(sorted(expected))} and nothing else")
    for name in sorted(expected):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} in {group.name} is a link to elsewhere, expected data")


def _read(dataset: h5py.HLObject, dtype: np.dtype[Any], count: int) -> Array:
    _check_attributes(dataset, {})
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != (count,):
        raise ValueError(f"{dataset.name} is not a dataset of {count} rows")
    if dataset.id.get_type() != h5py.h5t.py_create(dtype):  # numpy's equality would let an enumeration pass
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, expected {dtype}")
    stored = dataset.id.get_create_plist()
    elsewhere = stored.get_external_count() or dataset.id.get_offset() is None
    if stored.get_layout() != h5py.h5d.CONTIGUOUS or stored.get_nfilters() or elsewhere:
        raise ValueError(f"{dataset.name} is in chunks, filtered, external or virtual, expected contiguous")
    values: Array = dataset[...]
    return values
