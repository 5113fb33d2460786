"""The statistics store: immutable HDF5 shards and the manifest that lists them. See `docs/format.md`.

A shard is built in memory and put in place whole; then the manifest is replaced by one that lists it. A shard
that the manifest does not list does not exist. So a store is readable after a kill at any instant, and its
writer goes on after the last shard listed. N rows, F columns throughout.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import h5py
import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from surrogate.atomic import sweep, write_atomic
from surrogate.errors import DataError, SurrogateError, UsageError, nearest
from surrogate.protocols import Level

MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
RANK: Final = 0
"""Of the process that wrote a shard, in its name: a store has one writer."""
STATISTIC: Final = np.dtype("<f4")
ROW_FIELDS: Final[Mapping[str, np.dtype[Any]]] = {
    "value": np.dtype("<f8"),
    "sample": np.dtype("<i8"),
    "regime": np.dtype("<i2"),
}

HDF5_ERRORS: Final = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises for a file that is not as expected."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What the rows of a store mean; only an equal spec may continue it.

    `columns` name the F statistics; `regimes`, by number, the changes of the outputs under which rows were
    recorded; `policies` hold the facts and options of the measure that its values depend on, ready for JSON.

    Raises:
        UsageError: no columns or regimes, names that repeat or hold a slash, or policies that are not JSON.
    """

    app: str
    measure: str
    measure_version: int
    level: Level
    columns: tuple[str, ...]
    regimes: tuple[str, ...]
    policies: Mapping[str, Any]

    def __post_init__(self) -> None:
        for what, names in (("columns", self.columns), ("regimes", self.regimes)):
            odd = [name for name in names if name in ("", ".") or "/" in name or not name.isprintable()]
            if not names or odd or len(set(names)) < len(names):
                raise UsageError(
                    f"{what} {list(names)}: expected one or more different names without a slash"
                )
        try:
            plain = json.loads(json.dumps(dict(self.policies), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UsageError(f"policies of measure {self.measure!r}: not JSON: {error}") from None
        object.__setattr__(self, "policies", plain)

    def differing_keys(self, other: StoreSpec) -> list[str]:
        """What two specs differ in, sorted; a policy under a dotted name."""
        first, second = (
            {**asdict(s), **{f"policies.{k}": v for k, v in s.policies.items()}} for s in (self, other)
        )
        keys = (first.keys() | second.keys()) - {"policies"}
        return sorted(
            key for key in keys if key not in first or key not in second or first[key] != second[key]
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """Recorded rows, on the CPU, every number finite."""

    stats: Tensor
    """`(N, F)` float32."""
    value: Tensor
    """`(N,)` float32: the metric in its own units. (Shards hold it in float64, as it was recorded.)"""
    sample: Tensor
    """`(N,)` int64: which sample the row comes from; a split never parts the rows of one sample."""
    regime: Tensor
    """`(N,)` int16: a number into `StoreSpec.regimes`."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardEntry(_Record):
    """What the manifest says of a shard: inclusive bounds of its samples, a half-open range of work items."""

    file: Annotated[str, Field(pattern=r"^shard-[0-9]{1,6}-[0-9]{5,9}\.h5$")]
    sha256: str
    bytes: PositiveInt
    rows: PositiveInt
    sample_min: int
    sample_max: int
    items: tuple[NonNegativeInt, NonNegativeInt]


class Manifest(_Record):
    """What a store holds. `cursor` is the first work item that is not in it."""

    schema_version: Literal[1] = SCHEMA
    spec: StoreSpec
    shards: tuple[ShardEntry, ...] = ()
    cursor: NonNegativeInt = 0
    undefined: NonNegativeInt = 0
    complete: bool = False

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


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
            self._manifest, self._on_disk = _read_manifest(folder)
            if differing := spec.differing_keys(self._manifest.spec):
                keys = ", ".join(differing)
                raise UsageError(
                    f"{folder}: holds statistics of another {keys}; delete it or use another run"
                )
        else:
            self._publish(Manifest(spec=spec))
        self._marked = self.cursor

    @property
    def cursor(self) -> int:
        """The first work item that is not in a sealed shard: where a resumed run starts."""
        return self._manifest.cursor

    def append(self, stats: Tensor, values: Tensor, samples: Tensor, *, regime: int) -> None:
        """Takes R rows over: `(R, F)` statistics, `(R,)` metric values, `(R,)` int64 sample ids, any device.

        Rows whose value is NaN are dropped and counted.

        Raises:
            DataError: a shape does not fit, or a defined row holds a number that is not finite in float32.
            UsageError: the store is complete, or there is no such regime.
        """
        spec = self._manifest.spec
        if self._manifest.complete:
            raise UsageError(f"{self._folder}: the store is complete; delete it to record anew")
        if not 0 <= regime < len(spec.regimes):
            raise UsageError(
                f"regime {regime}: expected 0 to {len(spec.regimes) - 1}, a number into {spec.regimes}"
            )
        shapes = [tuple(tensor.shape) for tensor in (stats, values, samples)]
        if shapes != [(len(values), len(spec.columns)), (len(values),), (len(values),)]:
            raise DataError(f"rows of shapes {shapes}: expected (R, {len(spec.columns)}), (R,) and (R,)")
        value = values.detach().to("cpu", torch.float64)
        defined = (~value.isnan()).nonzero().squeeze(1)
        block = Rows(  # indexing copies, so the caller may go on with its tensors
            stats.detach().to("cpu", torch.float32)[defined],
            value[defined],
            samples.detach().to("cpu", torch.int64)[defined],
            torch.full(defined.shape, regime, dtype=torch.int16),
        )
        _check_finite(block, spec.columns)
        self._blocks.append(block)
        self._waiting += len(block.value)
        self._undefined += len(value) - len(block.value)

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
        spec, shards = self._manifest.spec, self._manifest.shards
        rows = Rows(*(torch.cat([getattr(block, f) for block in self._blocks]) for f in Rows.__slots__))
        data = _encode_shard(spec, rows)
        entry = ShardEntry(
            file=f"shard-{RANK}-{len(shards):05d}.h5",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            rows=len(rows.value),
            sample_min=int(rows.sample.min()),
            sample_max=int(rows.sample.max()),
            items=(self.cursor, self._marked),
        )
        write_atomic(self._folder / entry.file, data)
        self._advance(shards=(*shards, entry))
        self._blocks, self._waiting = [], 0

    def _advance(self, **changes: Any) -> None:
        undefined = self._manifest.undefined + self._undefined
        self._publish(
            self._manifest.model_copy(update={"cursor": self._marked, "undefined": undefined, **changes})
        )
        self._undefined = 0

    def _publish(self, manifest: Manifest) -> None:
        path = self._folder / MANIFEST
        if (path.read_bytes() if path.exists() else b"") != self._on_disk:
            raise UsageError(f"{path}: was changed by another process; expected one writer to a store")
        data = _encode_manifest(manifest.model_dump(mode="json"))
        write_atomic(path, data)
        self._manifest, self._on_disk = manifest, data


@dataclass(frozen=True)
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
        return cls(folder, _read_manifest(folder)[0])

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

    @property
    def samples(self) -> tuple[int, int] | None:
        """The least and the greatest sample id; None without rows."""
        shards = self.manifest.shards
        return (min(s.sample_min for s in shards), max(s.sample_max for s in shards)) if shards else None

    def shards(self) -> Iterator[Rows]:
        """All rows and columns in the order written, one shard in memory at a time."""
        return (self._load(entry) for entry in self.manifest.shards)

    def read(self, columns: Sequence[str] | None = None) -> Rows:
        """All rows at once, with the named statistics in the order asked for (None: all of them).

        Raises:
            UsageError: a column is not in the store.
        """
        names = self.spec.columns if columns is None else tuple(columns)
        for name in names:
            if name not in self.spec.columns:
                raise UsageError(f"{self.folder}: has no column {name!r}; {nearest(name, self.spec.columns)}")
        chosen = [self.spec.columns.index(name) for name in names]
        whole = Rows(
            stats=torch.empty(self.rows, len(names)),
            value=torch.empty(self.rows),
            sample=torch.empty(self.rows, dtype=torch.int64),
            regime=torch.empty(self.rows, dtype=torch.int16),
        )
        stop = 0
        for part in self.shards():
            start, stop = stop, stop + len(part.value)
            whole.stats[start:stop] = part.stats if columns is None else part.stats[:, chosen]
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
            rows = _decode_shard(data, self.spec, entry.rows)
            _check_rows(rows, self.spec, entry)
        except (*HDF5_ERRORS, DataError) as error:
            raise _refusal(path, error) from None
        return rows


def _refusal(path: Path, error: Exception) -> DataError:
    what = " ".join(str(error).split())
    return DataError(f"{path}: {what}; delete the folder {path.parent} and run collect again")


def _encode_manifest(plain: Mapping[str, Any]) -> bytes:
    body = json.dumps(plain, sort_keys=True, indent=1, allow_nan=False)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return (json.dumps({**plain, "checksum": checksum}, sort_keys=True, indent=1) + "\n").encode()


def _read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected statistics, made by collect"
        ) from None
    try:
        plain = json.loads(raw)
        checksum = plain.pop("checksum", None) if isinstance(plain, dict) else None
        if (
            checksum is None or _encode_manifest(plain) != raw
        ):  # so any change of a byte is seen, even of white space
            raise ValueError("its checksum is not that of what it holds")
        if plain.get("schema_version") != SCHEMA:
            raise ValueError(f"schema version {plain.get('schema_version')}, expected {SCHEMA}")
        manifest = Manifest.model_validate_json(json.dumps(plain))
        _check_manifest(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _refusal(path, ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")) from None
    except (ValueError, RecursionError, SurrogateError) as error:
        raise _refusal(path, error) from None
    for entry in manifest.shards:
        _check_size(folder / entry.file, entry.bytes)
    return manifest, raw


def _check_manifest(manifest: Manifest) -> None:
    row_bytes = len(manifest.spec.columns) * STATISTIC.itemsize + sum(d.itemsize for d in ROW_FIELDS.values())
    stop = 0
    for place, entry in enumerate(manifest.shards):
        if int(entry.file.removesuffix(".h5").split("-")[2]) != place:
            raise ValueError(f"lists {entry.file} in place {place}")
        if entry.items[0] != stop or entry.items[1] < stop:
            raise ValueError(f"{entry.file} holds work items {entry.items}, expected to begin at {stop}")
        if entry.rows * row_bytes > entry.bytes:
            raise ValueError(f"{entry.file} of {entry.bytes} bytes cannot hold {entry.rows} rows")
        stop = entry.items[1]
    if manifest.cursor < stop:
        raise ValueError(f"cursor {manifest.cursor}, expected at least {stop}")


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise _refusal(path, ValueError("is missing"))
    if path.stat().st_size != size:
        raise _refusal(path, ValueError(f"has {path.stat().st_size} bytes, expected {size}"))


def _check_finite(rows: Rows, columns: Sequence[str]) -> None:
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


def _check_rows(rows: Rows, spec: StoreSpec, entry: ShardEntry) -> None:
    _check_finite(rows, spec.columns)
    samples = int(rows.sample.min()), int(rows.sample.max())
    if samples != (entry.sample_min, entry.sample_max):
        raise ValueError(f"samples {samples}, expected {(entry.sample_min, entry.sample_max)}")
    if not 0 <= int(rows.regime.min()) <= int(rows.regime.max()) < len(spec.regimes):
        raise ValueError(f"a regime that is not among the {len(spec.regimes)} of the manifest")


# A shard as HDF5


def _encode_shard(spec: StoreSpec, rows: Rows) -> bytes:
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("v108", "v108")) as file:  # fixed, so that equal rows give equal bytes
        for key, text in _attributes(spec, len(rows.value)).items():
            file.attrs[key] = np.bytes_(text)
        for k, column in enumerate(spec.columns):
            file.create_dataset(
                f"stats/{column}", data=rows.stats[:, k].numpy(), dtype=STATISTIC, track_times=False
            )
        for name, dtype in ROW_FIELDS.items():
            file.create_dataset(name, data=getattr(rows, name).numpy(), dtype=dtype, track_times=False)
    return image.getvalue()


def _decode_shard(data: bytes, spec: StoreSpec, count: int) -> Rows:
    """Reads a shard if it is as `_encode_shard` makes it; anything else raises one of `HDF5_ERRORS`."""
    with h5py.File(io.BytesIO(data), "r") as file:
        _check_attributes(file, _attributes(spec, count))
        _check_members(file, {"stats", *ROW_FIELDS})
        _check_attributes(file["stats"], {})
        _check_members(file["stats"], set(spec.columns))
        stats = np.empty((count, len(spec.columns)), STATISTIC)
        for k, column in enumerate(spec.columns):
            stats[:, k] = _read_dataset(file["stats"][column], STATISTIC, count)
        value, sample, regime = (
            _read_dataset(file[name], dtype, count) for name, dtype in ROW_FIELDS.items()
        )
    return Rows(*map(torch.from_numpy, (stats, value.astype(np.float32), sample, regime)))


def _attributes(spec: StoreSpec, count: int) -> dict[str, bytes]:
    """The attributes of a shard, each as JSON."""
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


def _read_dataset(dataset: h5py.HLObject, dtype: np.dtype[Any], count: int) -> Array:
    _check_attributes(dataset, {})
    if not isinstance(dataset, h5py.Dataset) or dataset.shape != (count,):
        raise ValueError(f"{dataset.name} is not a dataset of {count} rows")
    if dataset.id.get_type() != h5py.h5t.py_create(dtype):  # numpy's equality would let an enumeration pass
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, expected {dtype}")
    layout = dataset.id.get_create_plist()
    plain = (
        layout.get_layout() == h5py.h5d.CONTIGUOUS and not layout.get_nfilters() + layout.get_external_count()
    )
    if not plain or dataset.id.get_offset() is None:
        raise ValueError(f"{dataset.name} is in chunks, filtered, external or virtual, expected contiguous")
    values: Array = dataset[...]
    return values
