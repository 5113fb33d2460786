"""A store that is not exactly as the writer makes it is refused, in one line that names the file."""

import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from surrogate.errors import DataError
from surrogate.store import StatsStore, StoreSpec, StoreWriter

SPEC = StoreSpec(
    app="toy",
    measure="iou",
    measure_version=1,
    level="sample",
    columns=("tp", "fp"),
    regimes=("model", "noisy"),
    policies={"ignore_index": 11},
)
ROWS = 6
SHARDS = ("shard-0-00000.h5", "shard-0-00001.h5")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of a sound store of two shards of six rows."""
    folder = tmp_path / "stats"
    writer = StoreWriter(folder, SPEC, shard_rows=1)
    for item in range(2):
        samples = torch.arange(ROWS) + 10 * item
        writer.append(torch.rand(ROWS, 2), torch.rand(ROWS), samples, regime=item)
        writer.mark(item + 1)
    writer.close()
    return folder


def write_manifest(folder: Path, plain: dict[str, Any]) -> None:
    """A manifest with the checksum that belongs to it, made as `docs/format.md` says."""
    plain = {key: value for key, value in plain.items() if key != "checksum"}
    body = json.dumps(plain, sort_keys=True, indent=1)
    plain["checksum"] = hashlib.sha256(body.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(plain, sort_keys=True, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def relist(folder: Path) -> None:
    """Makes the manifest agree with the size and the content of the first shard."""
    data = (folder / SHARDS[0]).read_bytes()
    plain = read_manifest(folder)
    plain["shards"][0] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_manifest(folder, plain)


def assert_refused(folder: Path, name: str, reason: str = "") -> None:
    with pytest.raises(DataError, match=re.escape(name) + ".*" + reason) as caught:
        StatsStore.open(folder).read()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"delete the folder {folder} and run collect again")


def test_the_forger_of_these_tests_makes_sound_stores(store: Path) -> None:
    before = (store / "manifest.json").read_bytes()
    relist(store)
    assert (store / "manifest.json").read_bytes() == before
    assert StatsStore.open(store).read().value.shape == (2 * ROWS,)


def overwrite(path: Path, data: bytes) -> None:
    """Replaces a file; some file systems flush one that is truncated, which is slow."""
    path.unlink()
    path.write_bytes(data)


def corrupted(data: bytes, draw: random.Random) -> bytes:
    """A copy that differs: bits flipped, cut, lengthened, or a block set to zero."""
    start = draw.randrange(len(data))
    match draw.randrange(4):
        case 0:
            return data[:start] + bytes([data[start] ^ (1 << draw.randrange(8))]) + data[start + 1 :]
        case 1:
            return data[:start]
        case 2:
            return data + draw.randbytes(1 + start)
        case _:
            zeroed = data[:start] + bytes(len(data[start : start + 64])) + data[start + 64 :]
            return zeroed if zeroed != data else b""


def test_a_thousand_corrupted_shards_are_refused_by_name(store: Path) -> None:
    draw = random.Random(0)
    sound = {name: (store / name).read_bytes() for name in SHARDS}
    for _ in range(1000):
        name = draw.choice(SHARDS)
        overwrite(store / name, corrupted(sound[name], draw))
        assert_refused(store, name)
        overwrite(store / name, sound[name])


def test_swapped_and_missing_shards_are_refused_by_name(store: Path) -> None:
    first, second = (store / name for name in SHARDS)
    one, other = first.read_bytes(), second.read_bytes()
    assert len(one) == len(other)
    first.write_bytes(other)
    second.write_bytes(one)
    assert_refused(store, SHARDS[0], "checksum")
    first.write_bytes(one)
    second.unlink()
    assert_refused(store, SHARDS[1], "is missing")
    second.mkdir()
    assert_refused(store, SHARDS[1], "is missing")


def test_every_changed_byte_of_the_manifest_is_refused(store: Path) -> None:
    path = store / "manifest.json"
    sound, draw = path.read_bytes(), random.Random(0)
    for place in range(len(sound)):
        overwrite(path, sound[:place] + bytes([sound[place] ^ draw.randrange(1, 256)]) + sound[place + 1 :])
        assert_refused(store, "manifest.json")
    for damaged in (
        b"",
        sound[:-1],
        sound + b" ",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        sound.replace(b"\n", b"\r\n"),
    ):
        path.write_bytes(damaged)
        assert_refused(store, "manifest.json")


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read \(No such file"):
        StatsStore.open(tmp_path)


SHARD_LIES = [
    ({"file": "../stats/shard-0-00000.h5"}, "file"),
    ({"file": "/etc/passwd"}, "file"),
    ({"file": "shard-0-00000.h5\n"}, "file"),
    ({"file": "shard-0-00001.h5"}, "in place 0"),
    ({"rows": 10**15}, "cannot hold"),
    ({"rows": 0}, "rows"),
    ({"rows": -1}, "rows"),
    ({"rows": 6.0}, "rows"),
    ({"rows": True}, "rows"),
    ({"bytes": "many"}, "bytes"),
    ({"items": [1, 1]}, "work items"),
    ({"items": [0, 2]}, "work items"),
    ({"items": [0]}, "items"),
    ({"extra": 1}, "extra"),
]


@pytest.mark.parametrize(("lie", "reason"), SHARD_LIES)
def test_a_lying_entry_is_refused_under_a_right_checksum(store: Path, lie: dict[str, Any], reason: str) -> None:
    plain = read_manifest(store)
    plain["shards"][0] |= lie
    write_manifest(store, plain)
    assert_refused(store, "manifest.json", reason)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"schema_version": 2}, "schema version 2, expected 1"),
        ({"schema_version": None}, "schema version None, expected 1"),
        ({"cursor": 1}, "cursor 1, expected at least 2"),
        ({"undefined": -1}, "undefined"),
        ({"complete": "yes"}, "complete"),
        ({"shards": {}}, "shards"),
        ({"spec": {}}, "spec"),
        ({"spec": {**json.loads(json.dumps(SPEC.__dict__)), "columns": ["../tp", "fp"]}}, "slash"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_lying_manifest_is_refused_under_a_right_checksum(store: Path, lie: dict[str, Any], reason: str) -> None:
    write_manifest(store, read_manifest(store) | lie)
    assert_refused(store, "manifest.json", reason)


def test_bounds_of_the_samples_that_are_not_those_of_the_shard_are_refused(store: Path) -> None:
    plain = read_manifest(store)
    plain["shards"][0]["sample_max"] = 99
    write_manifest(store, plain)
    assert_refused(store, SHARDS[0], r"samples \(0, 5\), expected \(0, 99\)")


def replaced(name: str, **options: Any) -> Callable[[h5py.File], None]:
    """Puts another dataset in the place of one, with the same data unless told otherwise."""

    def edit(file: h5py.File) -> None:
        data = file[name][...]
        del file[name]
        file.create_dataset(name, **({"data": data} | options))

    return edit


def without_data(name: str, **options: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape=(ROWS,), dtype="<f8", **options)

    return edit


def linked(name: str, target: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return edit


def virtual(file: h5py.File) -> None:
    del file["value"]
    layout = h5py.VirtualLayout(shape=(ROWS,), dtype="<f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "value", shape=(ROWS,))
    file.create_virtual_dataset("value", layout)


def compact(file: h5py.File) -> None:
    del file["value"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((ROWS,))
    h5py.h5d.create(file.id, b"value", h5py.h5t.IEEE_F64LE, space, properties).write(space, space, np.zeros(ROWS))


def attribute(name: str, value: Any, *, of: str = "/") -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[of].attrs[name] = value

    return edit


def overwritten(name: str, value: float) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[name][2] = value

    return edit


EDITS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "external link": (linked("value", h5py.ExternalLink("elsewhere.h5", "/value")), "link to elsewhere"),
    "dangling link": (linked("stats/tp", h5py.SoftLink("/nowhere")), "link to elsewhere"),
    "soft link": (linked("stats/tp", h5py.SoftLink("/stats/fp")), "link to elsewhere"),
    "linked group": (
        linked("stats", h5py.ExternalLink("elsewhere.h5", "/stats")),
        "link to elsewhere|not a group",
    ),
    "external storage": (without_data("value", external=[("/etc/passwd", 0, 8 * ROWS)]), "external"),
    "virtual": (virtual, "virtual"),
    "never written": (without_data("value"), "expected contiguous"),
    "gzip": (replaced("value", compression="gzip"), "filtered"),
    "checksum filter": (replaced("value", fletcher32=True), "filtered"),
    "chunks": (replaced("value", chunks=(3,)), "chunks"),
    "resizable": (replaced("value", maxshape=(None,)), "chunks"),
    "compact": (compact, "expected contiguous"),
    "object": (replaced("value", data=[b"a"] * ROWS, dtype=h5py.string_dtype()), "expected float64"),
    "vlen": (
        replaced("value", dtype=h5py.vlen_dtype(np.int32), data=None, shape=(ROWS,)),
        "expected float64",
    ),
    "half": (replaced("stats/tp", dtype="<f2"), "float16, expected float32"),
    "double": (replaced("stats/tp", dtype="<f8"), "float64, expected float32"),
    "big-endian": (replaced("stats/tp", dtype=">f4"), "expected float32"),
    "unsigned": (replaced("sample", dtype="<u8"), "uint64, expected int64"),
    "enumeration": (replaced("regime", dtype=h5py.enum_dtype({"a": 0}, "<i2")), "expected int16"),
    "too few rows": (replaced("value", data=np.zeros(ROWS - 1)), "not a dataset of 6 rows"),
    "too many rows": (without_data("value", chunks=(1,), maxshape=(None,)), "chunks"),
    "huge": (
        replaced("value", data=None, shape=(2**60,), dtype="<f8", chunks=(1024,)),
        "not a dataset of 6 rows",
    ),
    "matrix": (replaced("value", data=np.zeros((ROWS, 1))), "not a dataset of 6 rows"),
    "scalar": (replaced("value", data=1.0), "not a dataset of 6 rows"),
    "null": (replaced("value", data=h5py.Empty("<f8")), "not a dataset of 6 rows"),
    "group for a dataset": (lambda file: (file.pop("value"), file.create_group("value")), "not a dataset"),
    "dataset for a group": (
        lambda file: (file.pop("stats"), file.create_dataset("stats", data=1.0)),
        "not a group",
    ),
    "extra group": (lambda file: file.create_group("more"), "and nothing else"),
    "extra dataset": (
        lambda file: file.create_dataset("stats/fn", data=np.zeros(ROWS, "f4")),
        "and nothing else",
    ),
    "missing column": (lambda file: file.pop("stats/fp"), "and nothing else"),
    "other column": (lambda file: file.move("stats/fp", "stats/tn"), "and nothing else"),
    "named type": (lambda file: file.__setitem__("type", np.dtype("f4")), "and nothing else"),
    "endless path": (linked("stats/tp", h5py.SoftLink("/stats/tp")), "link to elsewhere"),
    "group in itself": (lambda file: file["stats"].__setitem__("more", file["stats"]), "and nothing else"),
    "other schema": (attribute("schema_version", np.bytes_(b"2")), "attribute schema_version is not 1"),
    "other measure": (attribute("measure", np.bytes_(b'"dsc"')), 'attribute measure is not "iou"'),
    "other policies": (attribute("policies", np.bytes_(b"{}")), "attribute policies is not"),
    "vlen attribute": (attribute("level", '"sample"'), "attribute level is not"),
    "array attribute": (attribute("rows", np.zeros(9)), "attribute rows is not 6"),
    "extra attribute": (attribute("more", 1), "expected"),
    "attribute of a dataset": (attribute("more", 1, of="stats/tp"), "expected"),
    "missing attribute": (lambda file: file.attrs.__delitem__("app"), "expected"),
    "nan": (overwritten("stats/fp", np.nan), "statistic 'fp' of sample 2 is nan"),
    "infinite value": (overwritten("value", np.inf), "metric of sample 2 is inf"),
    "huge value": (overwritten("value", 1e300), "metric of sample 2 is inf"),
    "unknown regime": (overwritten("regime", 2), "regime"),
    "negative regime": (overwritten("regime", -1), "regime"),
    "other samples": (overwritten("sample", 99), "samples"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_forged_shard_is_refused_under_a_right_checksum(store: Path, name: str) -> None:
    edit, reason = EDITS[name]
    with h5py.File(store / SHARDS[0], "r+") as file:
        edit(file)
    relist(store)
    assert_refused(store, SHARDS[0], reason)


@pytest.mark.parametrize("data", [bytes(4096), b"\x89HDF\r\n\x1a\n" + bytes(4096), b"PK\x03\x04" * 1000])
def test_another_kind_of_file_is_refused_under_a_right_checksum(store: Path, data: bytes) -> None:
    (store / SHARDS[0]).write_bytes(data)
    relist(store)
    assert_refused(store, SHARDS[0])


def test_a_file_that_the_manifest_does_not_list_is_not_read(store: Path) -> None:
    (store / "shard-0-00002.h5").write_bytes(b"a leftover")
    assert StatsStore.open(store).read().value.shape == (2 * ROWS,)
